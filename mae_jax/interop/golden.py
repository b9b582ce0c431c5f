"""Golden files: what a published implementation computed for fixed weights, inputs and noise.

One compressed .npz holds `meta` (JSON text), `in/<name>` inputs, `out/<name>` outputs and `w/<name>` for the
few tensors that the weight rule does not cover. All other weights follow from their name, shape and the
file's seed (`rule_weight`).
"""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core import plain
from mae_jax.core.archive import is_archive
from mae_jax.core.errors import UserError
from mae_jax.core.npy import Npz


@dataclasses.dataclass(frozen=True)
class Golden:
    """One file, read. `system` and `name` (meta's "class") select the code that rebuilds it.

    Attributes:
      meta: everything the file says of itself.
      inputs: {name: array} as the authors' code received them (images NCHW).
      outputs: {name: array} as it returned them.
      weights: {state-dict name: array}.
    """

    meta: dict[str, Any]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]

    @property
    def system(self) -> str:
        return self.meta["system"]

    @property
    def name(self) -> str:
        return self.meta["class"]

    @property
    def config(self) -> dict[str, Any]:
        return self.meta.get("config", {})

    def input(self, name: str) -> np.ndarray:
        """The input `name`; UserError where the file lacks it."""
        if name not in self.inputs:
            has = ", ".join(sorted(self.inputs))
            raise UserError(f"The file of '{self.name}' lacks the input 'in/{name}'; it has {has or 'none'}.")
        return self.inputs[name]

    def channels_last(self, name: str, shape: Sequence[int] | None = None) -> np.ndarray:
        """The images or volumes `name` as [b, *size, c]; UserError where they are not of `shape` (*size, c)."""
        images = np.moveaxis(self.input(name), 1, -1)
        if shape is not None and images.shape[1:] != tuple(shape):
            have, said = images.shape[1:], tuple(shape)
            raise UserError(f"The images 'in/{name}' are {have}, but the arguments (img_size, in_chans) say {said}.")
        return images


def rule_weight(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Return the float32 tensor that the state-dict entry `name` holds under the weight rule.

    A generator seeded by (crc32 of the name, seed) gives standard normals times 0.1. Exceptions: a 1-D
    "...weight" (the scale of a norm) is 1 + 0.1 normal, "...running_var" is 0.5 + uniform,
    "...num_batches_tracked" is an int64 zero.
    """
    shape = tuple(int(n) for n in shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    generator = np.random.default_rng([zlib.crc32(name.encode()), seed])
    if name.endswith("running_var"):
        return (generator.random(shape) + 0.5).astype(np.float32)
    tensor = generator.standard_normal(shape).astype(np.float32) * np.float32(0.1)
    is_scale = name.endswith("weight") and len(shape) == 1
    return np.asarray(tensor + np.float32(1) if is_scale else tensor)  # of a scalar NumPy makes no array by itself


def read(path: str | Path) -> Golden:
    """Read one golden file.

    Raises UserError where the file is missing, is no .npz, holds pickles, or is no golden file.
    """
    if not Path(path).exists():
        raise UserError(f"There is no file {path}.")
    if not is_archive(Path(path)):
        raise UserError(f"{path} is no golden file: it is not an .npz archive, or it is cut off.")
    try:
        arrays = dict(Npz(Path(path)))
    except (OSError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read as a golden file (an .npz of plain arrays): {error}") from error
    try:
        meta = plain.loads(str(arrays["meta"]))
        shapes, seed = meta["weights"], int(meta.get("seed", 0))
        stored = _part(arrays, "w/")
        weights = {name: stored[name] if name in stored else rule_weight(name, shapes[name], seed) for name in shapes}
        for name, shape in shapes.items():
            if list(weights[name].shape) != list(shape):
                raise ValueError(f"weight {name} is stored with shape {weights[name].shape}, meta says {shape}")
        golden = Golden(meta, _part(arrays, "in/"), _part(arrays, "out/"), weights)
        if not (isinstance(golden.system, str) and isinstance(golden.name, str) and isinstance(golden.config, dict)):
            raise ValueError("meta's system and class must be text and its config a dictionary")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is an .npz file but not a golden file: it needs `meta` with system, class, config, seed "
            f"and weights, and arrays named in/..., out/... and w/... ({type(error).__name__}: {error})."
        ) from error
    if not golden.outputs:
        raise UserError(f"{path} holds no out/ array: there is nothing to compare.")
    return golden


def _part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
