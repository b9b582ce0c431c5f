"""The native weights file: one .safetensors with our parameter paths, the config and where the weights come from.

Its tensors are named "params/...", "stats/...", "ema/...", "head/..."; the header's metadata holds `config` and `info`
as JSON. It is read without running anything.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mae_jax
from mae_jax.core import tree
from mae_jax.core.errors import UserError

FORMAT = "mae_jax-weights-1"
KINDS = ("pretraining", "encoder", "classifier")
PARTS = ("params", "stats", "ema", "head")


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's arrays on the host, and what they are.

    Attributes:
      config: nested plain dict as `Config.to_dict` gives it; at least "method" and "augment" (mean, std).
      params, stats, ema: as in a train state; an encoder-only file holds the encoder's parameters alone.
      head: of a classifier: {"params": ..., "stats": ...}; its other facts are in `info["head"]`.
      info: {"kind": one of KINDS, "norm_pix": bool | None, "source", "sha256", "licence", "step", "mae_jax", ...}.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    stats: dict[str, Any] = dataclasses.field(default_factory=dict)
    ema: dict[str, Any] = dataclasses.field(default_factory=dict)
    head: dict[str, Any] | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.info["kind"]


def write(path: str | os.PathLike[str], weights: Weights) -> Path:
    """Write the native file, whole or not at all."""
    from safetensors.numpy import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"weights are written as .safetensors, and '{path}' has another ending.")
    trees = {part: getattr(weights, part) or {} for part in PARTS}
    flat = {name: np.ascontiguousarray(a) for name, a in tree.flatten(trees).items()}
    meta = {"config": weights.config, "info": weights.info | {"mae_jax": mae_jax.__version__}}
    data = save(flat, {"format": FORMAT} | {key: json.dumps(value) for key, value in meta.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # mkstemp makes it readable by its owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def read(path: str | os.PathLike[str]) -> Weights:
    """Read a native file.

    Raises:
      UserError: no such file, or not written by `write`.
    """
    from mae_jax.interop.files import read_tensors

    meta = metadata(path)
    if meta.get("format") != FORMAT:
        raise UserError(
            f"{path} is no weights file of mae_jax. `mae_jax convert {path} NEW.safetensors` reads published ones."
        )
    found: dict[str, Any] = {part: {} for part in PARTS} | tree.unflatten(read_tensors(Path(path)))
    return Weights(
        json.loads(meta["config"]), found["params"], found["stats"], found["ema"], found["head"] or None,
        json.loads(meta["info"]),
    )  # fmt: skip


def metadata(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """The header's metadata of a .safetensors file; {} where there is none, or where the file is something else."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= 100_000_000:
            return {}
        try:
            return json.loads(file.read(length)).get("__metadata__", {})
        except (ValueError, AttributeError):
            return {}


def from_workdir(workdir: str | os.PathLike[str], step: int | None = None) -> Weights:
    """The newest good checkpoint of a run (or that of `step`), without optimizer state."""
    from mae_jax.train.checkpoint import restore_arrays

    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is no run: it has no config.json. Give the workdir of a `mae_jax train`.")
    config = json.loads(path.read_text())
    saved: dict[str, Any] = {"stats": {}, "ema": {}} | restore_arrays(
        Path(workdir), step, subtree=("step", "params", "stats", "ema")
    )
    info = {"kind": "pretraining", "source": str(workdir), "step": int(saved["step"]),
            "norm_pix": config["method"].get("norm_pix")}  # fmt: skip
    return Weights(config, saved["params"], saved["stats"], saved["ema"], info=info)


def open_weights(source: str | os.PathLike[str], *, file: str | None = None, step: int | None = None) -> Weights:
    """Weights from a workdir, a native file, or (later) a published file.

    Raises:
      UserError: nothing there, or nothing that is known.
    """
    path = Path(file or source)
    if path.is_dir() and (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        return from_workdir(path, step)
    if not path.exists():
        raise UserError(f"there are no weights at '{path}': give the workdir of a run, or a weights file.")
    return read(path)
