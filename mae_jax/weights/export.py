"""Writing weights: our native file, a folder with a model card, and the layouts of other libraries."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.weights import layout, store
from mae_jax.weights.card import card
from mae_jax.weights.store import Weights

FORMATS = ("native", "safetensors", "hf", "timm", "mae")


def export(
    weights: Weights, path: Path, to: str, *, run: Path | None = None, overwrite: bool = False
) -> dict[str, str]:
    """Write `weights` to `path` -> {what had no place there: why}.

    Args:
      to: "native": one .safetensors of ours; "safetensors": a folder with that file and a model card; "hf": a folder
        for transformers' from_pretrained; "timm": a folder for timm's "local-dir:"; "mae": a .safetensors with
        facebookresearch/mae's names.
      run: the workdir that the weights come from: its results go into the card.

    Raises:
      UserError: the layout has no such network, or `path` exists.
    """
    if to not in FORMATS:
        raise UserError(f"--to {to} is none of {', '.join(FORMATS)}.")
    single = to in ("native", "mae")
    if single and path.suffix != ".safetensors":
        raise UserError(f"--to {to} writes one file, and '{path}' does not end in .safetensors.")
    if not single and path.suffix in (".safetensors", ".pth", ".npz", ".bin"):
        raise UserError(f"--to {to} writes a folder, and '{path}' is named like a file.")
    if path.exists() and not overwrite:
        raise UserError(f"'{path}' exists: name another, or say --overwrite.")
    if to == "native":
        store.write(path, weights)
        return {}
    if to == "safetensors":
        use = f'model = mae_jax.load("{path.name}")\nfeatures = model.encode(images)'
        _folder(path, lambda folder: store.write(folder / "model.safetensors", weights),
                {"config.json": weights.config}, card(weights, path.name, use, {}, run))  # fmt: skip
        return {}
    written = {"hf": layout.to_hugging_face, "timm": layout.to_timm, "mae": layout.to_official}[to](weights)
    if to == "mae":
        store.replace(path, tensor_bytes(written.tensors))
        return written.left_out
    text = card(weights, path.name, written.use.replace("FOLDER", path.name), written.left_out, run)
    _folder(path, lambda folder: (folder / "model.safetensors").write_bytes(tensor_bytes(written.tensors)),
            written.files, text)  # fmt: skip
    return written.left_out


def tensor_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A .safetensors as torch's libraries expect it."""
    from safetensors.numpy import save

    return save(dict(tensors), {"format": "pt"})


def _folder(path: Path, tensors: Callable[[Path], Any], files: Mapping[str, Any], readme: str) -> None:
    """Write a folder whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        tensors(temporary)
        for name, content in files.items():
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n")
        (temporary / "README.md").write_text(readme)
        os.chmod(temporary, 0o755)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
