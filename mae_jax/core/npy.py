"""Arrays in .npy and .npz files from anywhere: numbers and text, never objects, and never more than the file holds."""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core.archive import STORED, Archive

MAX_HEADER = 10_000  # bytes, as numpy's own limit
MAX_ITEM = 1 << 20  # bytes of one element (text)
KINDS = "biufcSUV"


class Layout(NamedTuple):
    """What a .npy's header says; its numbers begin at byte `start`."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int


def layout(head: Any, length: int) -> Layout:
    """The header of a .npy of `length` bytes that begins with `head`, checked against that length.

    Raises:
      ValueError: no .npy, objects or records in it, or a shape that the file does not hold.
    """
    file = io.BytesIO(bytes(head[: MAX_HEADER + 12]))
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=MAX_HEADER)
    except Exception as error:  # numpy lets many kinds through, of its parser's as well
        raise ValueError(f"it has no header of a .npy ({type(error).__name__}: {str(error)[:200]})") from None
    if dtype.hasobject or dtype.names or dtype.subdtype or dtype.kind not in KINDS or dtype.itemsize > MAX_ITEM:
        raise ValueError(f"it holds {str(dtype)[:80]}: numbers or text expected (objects would be a pickle)")
    if len(shape) > 32 or any(type(n) is not int or not 0 <= n < 2**62 for n in shape):
        raise ValueError(f"its header says shape {str(shape)[:80]}")
    start = file.tell()
    if math.prod(shape) * dtype.itemsize > length - start:
        raise ValueError(f"its header says shape {shape} of {dtype}, and the file holds {length - start:,} bytes")
    return Layout(shape, fortran, dtype, start)


def array(data: Any) -> np.ndarray:
    """The array of a .npy's bytes, a copy. Raises ValueError."""
    view = memoryview(data)
    found = layout(view, len(view))
    return _shaped(view[found.start :], found).copy("K")


def _shaped(body: Any, found: Layout) -> np.ndarray:
    count = math.prod(found.shape)
    if not count or not found.dtype.itemsize:
        return np.zeros(found.shape, found.dtype)
    flat = np.frombuffer(body, found.dtype, count)
    return flat.reshape(found.shape, order="F" if found.fortran else "C")


def mapped(path: Path, start: int = 0, length: int | None = None) -> np.ndarray:
    """The .npy at [start, start + length) of a file, mapped read-only. Raises ValueError, OSError."""
    length = path.stat().st_size - start if length is None else length
    with path.open("rb") as file:
        file.seek(start)
        found = layout(file.read(min(length, MAX_HEADER + 12)), length)
    if not math.prod(found.shape) or not found.dtype.itemsize:
        return np.zeros(found.shape, found.dtype)
    return np.memmap(path, found.dtype, "r", start + found.start, found.shape, "F" if found.fortran else "C")


class Npz(Mapping[str, np.ndarray]):
    """The arrays of a .npz by name, each read when it is asked for (a copy).

    Args:
      source: a path, or the bytes.

    Raises:
      ValueError: no .npz, or one that lies (core/archive.py). OSError: the file cannot be opened.
    """

    def __init__(self, source: Path | bytes):
        self._path = source if isinstance(source, Path) else None
        self._archive = Archive(source)
        self._names = {name.removesuffix(".npy"): name for name in self._archive.members if name.endswith(".npy")}

    def __getitem__(self, name: str) -> np.ndarray:
        return array(self._archive.read(self._names[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def mapped(self, name: str) -> np.ndarray:
        """An array that is stored uncompressed, mapped from the file; a compressed one, read."""
        member = self._archive.members[self._names[name]]
        if member.method != STORED or self._path is None:
            return self[name]
        return mapped(self._path, member.start, member.size)
