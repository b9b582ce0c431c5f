"""The native weights file: one .safetensors with our parameter paths, the config and where the weights come from.

Its tensors are named "params/...", "stats/...", "ema/...", "head/...", "extra/..."; the header's metadata
holds `config` and `info` as JSON. It is read without running anything.
"""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mae_jax
from mae_jax import methods
from mae_jax.core import plain, tree
from mae_jax.core.errors import UserError
from mae_jax.interop.files import metadata, read_tensors

FORMAT = "mae_jax-weights-1"
KINDS = ("pretraining", "encoder", "classifier")
PARTS = ("params", "stats", "ema", "head", "extra")
ENCODER_PARTS = ("tokenizer", "encoder")  # of a method's parameters, in an encoder-only file


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's arrays on the host, and what they are.

    Attributes:
      config: nested plain dict as `Config.to_dict` gives it; at least "method" and "augment" (mean, std).
      params, stats, ema: as in a train state; an encoder-only file holds the encoder's parameters alone.
      head: of a classifier: {"params": ..., "stats": ...}; its other facts are in `info["head"]`.
      extra: fixed position tables, "encoder" and "decoder", of a published file that differ from ours in their last
        bits: nothing reads them, and they go out again as they came.
      info: {"kind": one of KINDS, "norm_pix": bool | None, "source", "sha256", "licence", "step", "mae_jax", ...}.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    stats: dict[str, Any] = dataclasses.field(default_factory=dict)
    ema: dict[str, Any] = dataclasses.field(default_factory=dict)
    head: dict[str, Any] | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

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
    replace(path, data)
    return path


def replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
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


def read(path: str | os.PathLike[str]) -> Weights:
    """Read a native file.

    Raises:
      UserError: no such file, or not written by `write`.
    """
    meta = metadata(path)
    if meta.get("format") != FORMAT:
        raise UserError(
            f"{path} is no weights file of mae_jax. `mae_jax convert {path} NEW.safetensors` reads published ones."
        )
    found: dict[str, Any] = {part: {} for part in PARTS} | tree.unflatten(read_tensors(Path(path)))
    try:
        config, info = plain.loads(meta["config"]), plain.loads(meta["info"])
        if info["kind"] not in KINDS or not isinstance(config["method"]["name"], str):
            raise ValueError(f"kind {info['kind']!r}, or a method without a name")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say what it is (its header: {type(error).__name__}: {error}).") from None
    return Weights(config, found["params"], found["stats"], found["ema"], found["head"] or None, info, found["extra"])


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the workdir of a run that has saved."""
    return (Path(path) / "checkpoints").is_dir()


def from_workdir(workdir: str | os.PathLike[str], step: int | None = None) -> Weights:
    """The newest good checkpoint of a run (or that of `step`), without optimizer state."""
    from mae_jax.train.checkpoint import restore_arrays

    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is no run: it has no config.json. Give the workdir of a `mae_jax train`.")
    config = plain.read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("method"), dict):
        raise UserError(f"{path} is no config of a run: it names no method.")
    task = config.get("transfer", {}).get("task", "none")
    if task != "none":  # a finished run of fine-tuning is the classifier that it wrote
        model = Path(workdir) / "model.safetensors"
        if step is not None or not model.is_file():
            raise UserError(
                f"{workdir} is a run of `mae_jax {task}`, whose checkpoints hold no encoder by itself: a "
                f"finished run of `mae_jax finetune` has its weights in {model}."
            )
        return read(model)
    saved: dict[str, Any] = {"stats": {}, "ema": {}} | restore_arrays(
        Path(workdir), step, subtree=("step", "params", "stats", "ema")
    )
    info = {"kind": "pretraining", "source": str(workdir), "step": int(saved["step"])}
    if "norm_pix" in config["method"]:  # other methods have no such question
        info["norm_pix"] = config["method"]["norm_pix"]
    return Weights(config, saved["params"], saved["stats"], saved["ema"], info=info)


def fit_positions(weights: Weights, method: Any) -> Weights:
    """The weights with the learned positions that `method` has (`learned_positions`).

    Raises:
      UserError: a learned table where the method has fixed positions.
    """
    from mae_jax.methods import get

    encoder, theirs = weights.params.get("encoder", {}), weights.config["method"]
    found, net = encoder.get("pos_embed"), getattr(method, "encoder", None)
    learned = getattr(method, "positions", "sincos") == "learned" or getattr(method, "learned_positions", False)
    if found is not None and not learned and net is not None:
        ways = {"positions": "set method.positions='learned'", "learned_positions": "set method.learned_positions=True"}
        can = next((way for field, way in ways.items() if hasattr(method, field)), "it has fixed ones only")
        raise UserError(f"these weights have learned positions, and method '{method.name}' here has none: {can}.")
    if not encoder or (found is None and not learned):
        return weights
    old: Any = get(theirs["name"])(**{key: value for key, value in theirs.items() if key != "name"})
    if found is not None:
        rows, dim = found.shape[-2] - math.prod(old.grid), found.shape[-1]
    elif net is not None:
        rows, dim = int(net.class_token and net.class_position), net.shape.dim
    else:
        return weights
    table = learned_positions(found, old, method, rows, dim)
    if table is None or table is found:
        return weights
    return dataclasses.replace(weights, params=weights.params | {"encoder": encoder | {"pos_embed": table}})


def learned_positions(table: Any, old: Any, new: Any, rows: int, dim: int) -> np.ndarray | None:
    """A table [1, rows + n, dim] for the grid of method `new`: that of method `old`, resampled as torch's bicubic does.

    Args:
      table: the learned one; None: the fixed one of `old`'s encoder, with zeros for its prefix.
      rows: of the prefix (class token).

    Returns: None where there is no such table, or none that fits.
    """
    from mae_jax.tokens.positions import interpolate, with_prefix

    grids: list[Any] = [getattr(method, "grid", None) for method in (old, new)]
    if None in grids or len(grids[0]) != len(grids[1]):
        return None
    if table is None:
        own = {f.name: f.default for f in dataclasses.fields(old)}  # from scratch `old` is `new`, whose are learned
        old = dataclasses.replace(old, positions=own["positions"]) if "positions" in own else old
        fixed = getattr(getattr(old, "encoder", None), "fixed_table", lambda grid: None)(grids[0])
        if fixed is None:
            return None
        table = with_prefix(fixed, rows)[None]
    if table.shape[-2:] != (rows + math.prod(grids[0]), dim):
        return None
    return table if grids[0] == grids[1] else interpolate(np.asarray(table), grids[0], grids[1], prefix=rows)


def open_weights(
    source: str | os.PathLike[str],
    *,
    file: str | None = None,
    step: int | None = None,
    hints: Any = None,
    overrides: Sequence[str] = (),
) -> Weights:
    """Weights from a workdir, a native file, a published file or folder, or a catalogue name.

    Args:
      source: the path, or with `file` the name that `file` has in the catalogue (`mae_jax convert --list`).
      file: where a published file lies; nothing is downloaded.
      step: of a workdir's checkpoint.
      hints: what a published file does not say of itself (weights/hints.py: Hints).
      overrides: of this command: a method of the user's own that they name may run (methods.check_known).

    Raises:
      UserError: nothing there, or nothing that is known; a published file that is not what its name says; a method
        that is code and never ran here.
    """
    weights = _opened(source, file, step, hints)
    methods.check_known(weights.config, str(file or source), overrides)
    return weights


def _opened(source: str | os.PathLike[str], file: str | None, step: int | None, hints: Any) -> Weights:
    from mae_jax.weights import catalog

    name = str(source)
    if file is None and name in catalog.CATALOG and not Path(name).exists():
        entry = catalog.CATALOG[name]
        raise UserError(
            f"{name} is the published {entry.file} (licence: {entry.licence}). Get it from {entry.url} and say where "
            f"it lies: mae_jax.load('{name}', file='.../{entry.file}'); on the command line give the file itself."
        )
    path = Path(file or source)
    if is_run(path):
        return from_workdir(path, step)
    if path.is_dir() and metadata(path / "model.safetensors").get("format") == FORMAT:
        path = path / "model.safetensors"
    if not path.exists():
        known = catalog.nearest(name, catalog.CATALOG) if file is None and "/" not in name else ""
        known = known if known.startswith("Did") else ""
        raise UserError(
            f"there are no weights at '{path}': give the workdir of a run, or a weights file. {known}".strip()
        )
    from mae_jax.weights.hints import Hints, told
    from mae_jax.weights.published import read_published

    hints = hints or Hints()
    if metadata(path).get("format") == FORMAT:
        return told(read(path), hints, str(path))
    if file is not None:
        catalog.get(name)
        hints = dataclasses.replace(hints, name=name)
    try:
        return read_published(path, hints)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Tensors or settings of shapes and kinds that no such file has: what fits nothing may break anywhere.
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{path} cannot be understood as weights ({said}). Is it whole, and what it says?") from error
