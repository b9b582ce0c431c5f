"""Indexes of many millions of records: names as one block of bytes, and arrays that processes share."""

import atexit
import contextlib
import os
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core.errors import UserError

SHARED_BYTES = 16 << 20  # an array above this goes to other processes as a file, not as bytes


class Names:
    """Names of n records: their bytes end to end, and where each begins. 12 bytes per record besides its name.

    Attributes:
        block: uint8, all names, possibly of other records too.
        starts: int64 [n]; lengths: uint32 [n].
    """

    def __init__(self, block: np.ndarray, starts: np.ndarray, lengths: np.ndarray):
        self.block, self.starts, self.lengths = block, starts, lengths

    @classmethod
    def of(cls, names: Iterable[bytes]) -> "Names":
        """Gather names as they come by, never holding them as Python objects."""
        block, lengths = bytearray(), array("I")
        for name in names:
            block += name
            lengths.append(len(name))
        sizes = np.frombuffer(lengths, np.uint32) if lengths else np.zeros(0, np.uint32)
        ends = np.cumsum(sizes, dtype=np.int64)
        ends -= sizes
        return cls(np.frombuffer(block, np.uint8) if block else np.zeros(0, np.uint8), ends, sizes)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> bytes:
        i = range(len(self))[i]
        start = int(self.starts[i])
        return self.block[start : start + int(self.lengths[i])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        view = self.block.data
        for at in range(0, len(self), 1 << 16):  # Python integers for a part of the index at a time
            part = slice(at, at + (1 << 16))
            for start, length in zip(self.starts[part].tolist(), self.lengths[part].tolist(), strict=True):
                yield view[start : start + length].tobytes()

    def take(self, chosen: np.ndarray) -> "Names":
        """The names at `chosen` (numbers or bool [n]). The bytes are copied only where few of them are needed."""
        starts, lengths = self.starts[chosen], self.lengths[chosen]
        if 2 * int(lengths.sum(dtype=np.int64)) >= len(self.block):
            return Names(self.block, starts, lengths)
        return Names.of(iter(Names(self.block, starts, lengths)))

    def __getstate__(self) -> dict[str, Any]:
        return shared_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(restored(state))


class Stored(NamedTuple):
    """An array that lies in a file; stands for it in a pickle."""

    path: str
    dtype: np.dtype
    shape: tuple[int, ...]

    def open(self) -> np.ndarray:
        # The plain view, since memmap is slower to index; it keeps the map alive.
        view = np.memmap(self.path, self.dtype, "r", shape=self.shape).view(np.ndarray)
        _stored[id(view)] = (view, self)
        return view


_stored: dict[int, tuple[np.ndarray, Stored]] = {}  # by id: maps of files that another process can open as well
_storing = threading.Lock()


def shared_state(owner: object) -> dict[str, Any]:
    """What to pickle of an object: large arrays are written to a temporary file once, and mapped from then on.

    The owner's own copy becomes the map too. The file is removed when this process exits.
    """
    state = dict(owner.__dict__)
    for name, value in state.items():
        with _storing:
            large = type(value) is np.ndarray and value.nbytes > SHARED_BYTES and not value.dtype.hasobject
            if large and id(value) not in _stored:
                value = owner.__dict__[name] = _store(value).open()
            if id(value) in _stored:
                state[name] = _stored[id(value)][1]
    return state


def restored(state: dict[str, Any]) -> dict[str, Any]:
    """The state that `shared_state` gave, with its files mapped."""
    return {name: value.open() if isinstance(value, Stored) else value for name, value in state.items()}


def _store(value: np.ndarray) -> Stored:
    handle, path = tempfile.mkstemp(prefix="mae_jax-index-", suffix=".bin")
    atexit.register(_remove, path, os.getpid())
    with os.fdopen(handle, "wb") as file:
        try:
            np.ascontiguousarray(value).tofile(file)
        except OSError as error:
            _remove(path, os.getpid())
            raise UserError(
                f"An index of {value.nbytes >> 20} MB, which worker processes share, could not be written to "
                f"{Path(path).parent}: {error}. Set TMPDIR to a directory with room."
            ) from error
    return Stored(path, value.dtype, value.shape)


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child inherits the duty, not the right
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
