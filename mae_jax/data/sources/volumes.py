"""Volumes: made-up ellipsoids in a smooth field, or arrays from a file (CT crops)."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.base import Source, Spec, held_out, label_phrase, split_name
from mae_jax.data.sources.npz import member, members, whole

BODIES = (1, 3)  # ellipsoids per volume, fewest and most
LONG, SHORT = (0.28, 0.42), (0.12, 0.2)  # half axes, as shares of the side
NOISE = 0.005  # little: in a flat patch a normalised target is nothing but noise
CLASSES = ("long 1", "long 2", "long 3", "flat 1", "flat 2", "flat 3")  # and the axis along which they are so


@dataclass(frozen=True)
class Volumes(Spec):
    """Volumes float32 [d, h, w, c] in [0, 1], as leaf "volume".

    Args:
        path: a .npy of volumes [n, d, h, w] or [n, d, h, w, c], or a .npz with `volumes` and, if there are any,
            integer `labels` [n]; "": made-up ones. Integers are scaled to [0, 1] by their type's maximum; floats
            are taken as they are. A .npy, and what np.savez stored uncompressed, is mapped, not read.
        holdout: the share of a file's volumes kept for testing.
        size: of made-up volumes, voxels, one number or one per axis.
        length: made-up volumes per split. Item i shows bodies of class i % 6.
    """

    path: str = ""
    holdout: float = 0.1
    size: Any = 16
    length: int = 2048

    def open(self, split: str) -> Source:
        split = split_name(split)
        if not self.path:
            size = (self.size,) * 3 if isinstance(self.size, int) else tuple(self.size)
            if len(size) != 3 or min(*size, self.length) < 1:
                raise UserError(f"The volumes source makes volumes of data.size={self.size} (a side or three) and "
                                f"data.length={self.length}: at least 1 each expected.")  # fmt: skip
            return Ellipsoids(size, self.length, split)
        path = Path(self.path).expanduser().absolute()
        source = VolumeFile(path)
        held = held_out([str(i).encode() for i in range(len(source))], self.holdout)
        keep = np.flatnonzero(held == (split == "test"))
        if not len(keep):
            raise UserError(f"A split of {path} is empty: {len(source)} volumes, data.holdout={self.holdout}.")
        source.labels, source.numbers = source.labels[keep], keep
        return source


class Ellipsoids(Source):
    """One to three equally shaped ellipsoids on a smooth gradient, each computed from (split, its number).

    A class is a shape: long or flat, along one of the three axes. Places, sizes and intensities are random.
    """

    classes = CLASSES

    def __init__(self, size: tuple[int, int, int], length: int, split: str):
        self.size, self.split = size, split
        self.labels = (np.arange(length) % len(CLASSES)).astype(np.int32)

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng = np.random.Generator(np.random.Philox(key=[1 + (self.split == "test"), i]))
        flat, axis = divmod(int(self.labels[i]), 3)
        axes = [(np.arange(s, dtype=np.float32) + 0.5) / s for s in self.size]
        at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # [d, h, w, 3] in [0, 1]
        slope = rng.uniform(-0.15, 0.15, 3)
        field = 0.3 + (at - 0.5) @ slope
        for _ in range(rng.integers(BODIES[0], BODIES[1] + 1)):
            half = rng.uniform(*(LONG if flat else SHORT), 3)
            half[axis] = rng.uniform(*(SHORT if flat else LONG))
            inside = (np.square((at - rng.uniform(0.25, 0.75, 3)) / half).sum(-1)) < 1
            field = np.where(inside, rng.uniform(0.5, 0.9), field)
        field = field + NOISE * rng.standard_normal(field.shape)
        return {"volume": np.clip(field, 0, 1).astype(np.float32)[..., None], "label": int(self.labels[i])}

    def name(self, i: int) -> str:
        return f"volumes {self.split} #{i}"

    def describe(self) -> str:
        shape = "x".join(map(str, self.size))
        return f"volumes: {len(self)} made-up volumes of ellipsoids {shape} float32, {label_phrase(self)}"


class VolumeFile(Source):
    """Volumes of one .npy or .npz file, which every process that holds a copy opens for itself on first use."""

    def __init__(self, path: Path):
        self.path = path
        n = len(self.volumes)
        self.numbers, self.labels = np.arange(n), np.full(n, -1, np.int32)
        if path.suffix == ".npz" and "labels" in members(path):
            labels = member(path, "labels")
            if labels.shape != (n,) or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
                raise UserError(f"The labels in {path} have shape {labels.shape} and dtype {labels.dtype}: whole "
                                f"numbers [{n}] of at least 0 expected, one for each volume.")  # fmt: skip
            self.labels = labels.astype(np.int32)
            self.classes = tuple(str(c) for c in range(1 + int(labels.max(initial=0))))

    @functools.cached_property
    def volumes(self) -> np.ndarray:
        return _open(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "volumes"}

    def __getitem__(self, i: int) -> dict[str, Any]:
        volume = np.array(self.volumes[self.numbers[i]])
        scale = 1.0 if volume.dtype.kind == "f" else 1.0 / np.iinfo(volume.dtype).max
        volume = volume.astype(np.float32) * np.float32(scale)
        return {"volume": volume if volume.ndim == 4 else volume[..., None], "label": int(self.labels[i])}

    def name(self, i: int) -> str:
        return f"{self.path.name} #{self.numbers[i]}"

    def where(self, i: int) -> str:
        return f"{self.path} [{self.numbers[i]}]"

    def describe(self) -> str:
        shape = "x".join(map(str, self.volumes.shape[1:]))
        return f"volumes {self.path}: {len(self)} volumes {shape} {self.volumes.dtype}, {label_phrase(self)}"


def _open(path: Path) -> np.ndarray:
    """The array of volumes, checked."""
    if path.suffix not in (".npz", ".npy"):
        raise UserError(f"data.path={path} is not a .npz or .npy file. Convert NIfTI or DICOM series to one array "
                        "[n, d, h, w] of equally large crops, intensities in [0, 1].")  # fmt: skip
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"data.path={path}: there is no such file. {nearest(path.name, beside)}")
    if path.suffix == ".npy":
        array = whole(path)
    else:
        names = members(path)
        if "volumes" not in names:
            raise UserError(f"{path} holds the arrays {', '.join(names) or 'nothing'}; the volumes source reads "
                            "`volumes` (np.savez(path, volumes=..., labels=...)).")  # fmt: skip
        array = member(path, "volumes")
    if array.ndim not in (4, 5) or array.dtype.kind not in "uif" or not len(array):
        raise UserError(f"The volumes in {path} have shape {array.shape} and dtype {array.dtype}: numbers "
                        "[n, d, h, w] or [n, d, h, w, c] expected.")  # fmt: skip
    return array
