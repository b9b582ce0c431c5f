"""Images, or samples of another kind, as a user has them, arrays, paths, bytes, one or many, as a network's batches."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax import modalities
from mae_jax.core.errors import UserError
from mae_jax.data.decode import MODES, BadImage, convert
from mae_jax.data.views import Views
from mae_jax.methods.base import Leaf, Method
from mae_jax.nets.vit import sizes
from mae_jax.schema import Augment
from mae_jax.train import inputs
from mae_jax.train.inputs import is_image

Input = Any  # an image or images, see `Images`
Size = int | tuple[int, int]


class Images:
    """Images by number, prepared as for evaluation.

    Args:
      given: an array [h, w, c] or [n, h, w, c] ([h, w] or [n, h, w] too where the network reads one channel); a PIL
        image, a path, the bytes of a file; a list of these. For a method that reads one leaf of another kind likewise:
        an array of one sample or of many, a path, a list (`Modality.given`). Else {leaf: array [n, ...] or list}.
      spec: what the network reads.
      prepare: False: arrays go in as they are.

    Raises:
      UserError: what cannot be an image, here or, where it has to be read first, in `rows`.
    """

    def __init__(self, given: Input, spec: Mapping[str, Leaf], augment: Augment, prepare: bool = True):
        self.prepare, self._spec = prepare, dict(spec)
        self._views: Views = inputs.views(spec, augment, train=False)
        images = [name for name in spec if is_image(name)]
        self._kinds = {name: found for name in spec if (found := modalities.find(name, augment))}
        if isinstance(given, Mapping):
            self._leaves = {name: _many(x, f"'{name}'", None) for name, x in given.items()}
            wanted = {"image"} | {n for n in spec if not is_image(n)} if images and prepare else set(spec)
            if missing := sorted(wanted - set(self._leaves)):
                raise UserError(f"the method reads {', '.join(spec)}; {', '.join(missing)} is missing.")
            counts = {name: len(x) for name, x in self._leaves.items()}
            if len(set(counts.values())) > 1:
                raise UserError(f"as many samples in every leaf expected; given: {counts}.")
            return
        if len(spec) == 1 and self._kinds:
            ((name, kind),) = self._kinds.items()
            leaf = spec[name]
            self._leaves = {name: _several(given, kind.axes(leaf) if prepare else len(leaf.shape), name)}
            return
        if not images or len(spec) > len(images) or (not prepare and len(spec) > 1):
            raise UserError(f"'images' must be {{name: array [n, ...]}} here: the method reads {', '.join(spec)}.")
        self._leaves = {"image" if prepare else images[0]: _many(given, "images", spec[images[0]].shape[-1])}

    def __len__(self) -> int:
        return len(next(iter(self._leaves.values())))

    def rows(self, numbers: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The leaves of these images, as the host sends them."""
        if not self.prepare:
            return {name: self._as_is(name, [x[i] for i in numbers]) for name, x in self._leaves.items()}
        known: dict[int, dict[str, np.ndarray]] = {}  # the last batch is filled up with its last image
        for i in numbers:
            if int(i) not in known:
                known[int(i)] = self._prepared(int(i))
        samples = [known[int(i)] for i in numbers]
        return {name: stack([sample[name] for sample in samples]) for name in samples[0]}

    def _prepared(self, i: int) -> dict[str, np.ndarray]:
        record = {name: x[i] for name, x in self._leaves.items()}
        name = "image" if "image" in record else next(iter(record))
        what = f"the {name} '{record[name]}'" if isinstance(record[name], str | os.PathLike) else f"{name} {i}"
        if "image" in record:
            channels = next(leaf.shape[-1] for name, leaf in self._spec.items() if is_image(name))
            record["image"] = _readable(record["image"], channels, what)
        try:
            for name, kind in self._kinds.items():
                record |= kind.given(name, self._spec[name], record.pop(name))
            return self._views(record, np.random.default_rng)  # nothing is drawn in evaluation
        except BadImage as error:
            raise UserError(f"cannot use {what}: {error}.") from None

    def _as_is(self, name: str, rows: list[Any]) -> np.ndarray:
        leaf, arrays = self._spec.get(name), [np.asarray(x) for x in rows]
        if leaf is None:
            raise UserError(f"the method reads no '{name}', but {', '.join(self._spec)}.")
        if (
            len({x.shape for x in arrays}) > 1
            or arrays[0].ndim != len(leaf.shape)
            or arrays[0].shape[-1] != leaf.shape[-1]
        ):
            found = sorted({x.shape for x in arrays})
            raise UserError(
                f"preprocess=False: '{name}' of shapes {found[:3]}; arrays [n, {_axes(leaf)}] of one size expected."
            )
        stacked = np.stack(arrays)
        floats = is_image(name) or (name in self._kinds and np.issubdtype(leaf.dtype, np.floating))
        if floats and not np.issubdtype(stacked.dtype, np.floating):
            raise UserError(
                f"preprocess=False takes normalised floats, and '{name}' is {stacked.dtype}: leave preprocessing on, "
                f"or divide by 255, subtract augment.mean and divide by augment.std first."
            )
        return stacked.astype(leaf.dtype)


def sized(method: Method, spec: Mapping[str, Leaf], size: Size) -> dict[str, Leaf]:
    """The spec with images of another size.

    Raises:
      UserError: the patch does not divide it, or the method reads no images.
    """
    if not any(is_image(name) for name in spec):
        raise UserError(f"size={size}: '{method.name}' reads no images, but {', '.join(spec)}.")
    height, width = sizes(size)
    patch = sizes(getattr(method, "patch", 1))
    if height < 1 or width < 1 or height % patch[0] or width % patch[1]:
        raise UserError(f"size={size}: a multiple of the patch, {patch[0]} x {patch[1]} pixels, expected.")
    return {
        name: dataclasses.replace(leaf, shape=(height, width, leaf.shape[-1])) if is_image(name) else leaf
        for name, leaf in spec.items()
    }


def stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one size as one array; of several depths (8 and 16 bits, floats), as floats of which 1 is white."""
    if len({array.dtype for array in arrays}) > 1:
        arrays = [convert(array, "float32") for array in arrays]
    return np.stack(arrays)


def _many(given: Any, what: str, channels: int | None) -> Any:
    """A sequence of images (channels: of an image; None: of samples of any kind)."""
    if channels is None:
        return given if isinstance(given, list | tuple) else np.asarray(given)
    if isinstance(given, str | bytes | os.PathLike) or _is_pil(given):
        if isinstance(given, str | os.PathLike) and Path(given).is_dir():
            raise UserError(
                f"'{given}' is a folder: give a list of its files, as sorted(Path(...).rglob('*.jpg')), or embed it "
                f"with `mae_jax embed --source folder:{given}`."
            )
        return [given]
    if isinstance(given, list | tuple):
        return given
    try:
        array = np.asarray(given)
    except Exception as error:
        raise UserError(f"{what}: {type(given).__name__} is no image: {error}.") from None
    if array.ndim == 4:
        return array
    if array.ndim == 3 and array.shape[-1] == channels:
        return array[None]
    if array.ndim == 2 and channels == 1:
        return array[None, :, :, None]
    if array.ndim == 3 and channels == 1 and array.shape[-1] > 4:
        return array[..., None]  # [n, h, w]: grey images, and no picture in colours
    raise UserError(
        f"{what} of shape {array.shape}: [h, w, {channels}] or [n, h, w, {channels}] expected, channels last"
        + (
            " (torch's [n, c, h, w] is .transpose(0, 2, 3, 1))."
            if array.ndim == 3 and array.shape[0] == channels
            else "."
        )
    )


def _several(given: Any, axes: int, name: str) -> Any:
    """A sequence of samples, of which an array has so many axes."""
    if isinstance(given, str | bytes | os.PathLike):
        return [given]
    if isinstance(given, list | tuple):
        return given
    array = np.asarray(given)
    if array.ndim not in (axes, axes + 1):
        raise UserError(f"'{name}' of shape {array.shape}: {axes} axes, or {axes + 1} for many, expected; or paths.")
    return array if array.ndim > axes else array[None]


def _readable(image: Any, channels: int, what: str) -> np.ndarray | bytes:
    """One image as the host's transforms read it: encoded bytes, or an array of uint8, uint16 or float32 in [0, 1]."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {what}: {error.strerror}.") from None
    if _is_pil(image):
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
        image = image.convert(MODES[channels]) if channels in MODES else image
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] != channels:
        hint = " (channels last: torch's [c, h, w] is .transpose(1, 2, 0))" if array.shape[:1] == (channels,) else ""
        raise UserError(f"{what} has the shape {array.shape}; [h, w, {channels}] expected{hint}.")
    if array.dtype in (np.uint8, np.uint16):
        return array
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if np.issubdtype(array.dtype, np.integer):
        if low < 0 or high > 255:
            raise UserError(f"{what} holds integers from {low:g} to {high:g}; 0 to 255 expected (uint8), or uint16.")
        return array.astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating) or not np.isfinite([low, high]).all():
        raise UserError(f"{what} holds values of {array.dtype} that are no finite numbers.")
    if low < -1e-3 or high > 1 + 1e-3:
        hint = "divide by 255, or give uint8" if high > 2 and low >= 0 else "or preprocess=False if it is normalised"
        raise UserError(f"{what} holds floats from {low:.4g} to {high:.4g}; [0, 1] expected: {hint}.")
    return np.clip(array.astype(np.float32), 0, 1)


def _is_pil(value: Any) -> bool:
    return type(value).__module__.startswith("PIL.")


def _axes(leaf: Leaf) -> str:
    return ", ".join([*("h", "w", "d")[: len(leaf.shape) - 1], str(leaf.shape[-1])])
