"""Images in shards of records (array_record or TFRecord): what a record holds, and random access by number."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.examples import BadExample, find_feature
from mae_jax.data.limits import MAX_DECODED, MAX_PIXELS, BadImage
from mae_jax.data.sources.base import Source, label_phrase
from mae_jax.data.sources.names import restored, shared_state
from mae_jax.data.sources.open_files import Descriptor, OpenFiles
from mae_jax.data.sources.tfrecord import fast_crc32c, read_record

FORMATS = ("array_record", "tfrecord")
OPEN_FILES = 256  # shards that a process keeps open
RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
# How encoded images begin: JPEG, PNG, GIF, BMP, RIFF (WebP), TIFF, .npy
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"\x93NUMPY")


@dataclass(frozen=True)
class ImageField:
    """Where a record keeps its image, and how.

    Attributes:
        key: the feature of the tf.train.Example; "": the record is the encoded image itself.
        encoding: "image" (an encoded file), "bytes" (raw pixels), "zlib" (raw pixels, compressed), "none" (a list of
            numbers).
        dtype, shape: of raw pixels; None for a size that differs. With several such sizes the shape is in `key`/shape
            and the pixels are in `key`/value, as TFDS writes them.
    """

    key: str
    encoding: str = "image"
    dtype: str = "uint8"
    shape: tuple[int | None, ...] = ()

    def take(self, record: bytes) -> bytes | np.ndarray:
        """The image in a record: encoded bytes or an array. Raises BadImage."""
        if not self.key:
            return record
        try:
            return self._take(record)
        except BadExample as error:
            raise BadImage(f"its record is no tf.train.Example: {error}") from error

    def _take(self, record: bytes) -> bytes | np.ndarray:
        several = self.encoding != "image" and self.shape.count(None) > 1
        key = f"{self.key}/value" if several else self.key
        values = find_feature(record, key)
        if values is None or (self.encoding != "none" and (len(values) != 1 or isinstance(values, np.ndarray))):
            raise BadImage(f"its record has no image in '{key}'")
        if self.encoding == "image":
            return bytes(values[0])
        shape = self._stored_shape(record) if several else self.shape
        dtype = np.dtype(self.dtype)
        if self.encoding == "none":
            pixels = np.asarray(values).astype(dtype)
        else:
            room = dtype.itemsize * (MAX_PIXELS if None in shape else math.prod(s or 0 for s in shape))
            raw = values[0] if self.encoding == "bytes" else _inflate(values[0], min(room, MAX_DECODED))
            if len(raw) % dtype.itemsize:
                raise BadImage(f"its {len(raw)} bytes are no whole number of {dtype} pixels")
            pixels = np.frombuffer(raw, dtype)
        try:
            return pixels.reshape([-1 if s is None else s for s in shape])
        except ValueError as error:
            raise BadImage(f"its {pixels.size} values do not make an image of shape {shape}") from error

    def _stored_shape(self, record: bytes) -> tuple[int, ...]:
        stored = find_feature(record, f"{self.key}/shape")
        found = tuple(int(s) for s in stored) if isinstance(stored, np.ndarray) else ()
        wanted = self.shape
        if len(found) != len(wanted) or min(found) < 0 or any(w not in (None, f) for w, f in zip(wanted, found)):
            raise BadImage(f"its record says shape {found}, where {wanted} is expected")
        return found


class Shards:
    """Random access to the records of many files, by their number in all of them.

    Args:
        kind: one of FORMATS.
        root: the directory; files: relative to it.
        counts: records per file.
        offsets, lengths: int64 [n] of every record in its file; empty for array_record, which has an index of its own.
    """

    def __init__(
        self,
        kind: str,
        root: Path,
        files: Sequence[str],
        counts: np.ndarray,
        offsets: np.ndarray,
        lengths: np.ndarray,
    ):
        self.kind, self.root, self.files = kind, root, tuple(files)
        self.ends = np.cumsum(counts)
        self.offsets, self.lengths = offsets, lengths
        self._open = OpenFiles(OPEN_FILES)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return shared_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(restored(state))

    def place(self, i: int) -> tuple[int, int]:
        """(number of the file, number in the file) of record i."""
        i = range(len(self))[i]
        file = int(np.searchsorted(self.ends, i, side="right"))
        return file, i - (int(self.ends[file - 1]) if file else 0)

    def read(self, i: int) -> bytes:
        """Record i. Raises BadImage where it is damaged, OSError where its file cannot be opened."""
        file, k = self.place(i)
        opened = self._file(file)
        if self.kind == "tfrecord":
            return read_record(opened.number, int(self.offsets[i]), int(self.lengths[i]))
        try:
            return opened.read([k])[0]
        except RuntimeError as error:
            raise BadImage(f"its record cannot be read ({error})") from error

    def _file(self, number: int) -> Any:
        path = self.root / self.files[number]
        return self._open(number, lambda: Descriptor(path) if self.kind == "tfrecord" else open_array_record(path))


def open_array_record(path: Path, options: str = RANDOM_ACCESS) -> Any:
    """array_record's reader. Raises OSError, and UserError where the package is missing."""
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise UserError(
            "Reading and writing array_record files needs the package array_record, which is not installed: "
            "pip install array_record."
        ) from error
    try:
        return ArrayRecordReader(str(path), options=options)
    except RuntimeError as error:
        raise OSError(f"{path} cannot be opened ({error})") from error


class Records(Source):
    """Images of shards, all of them or those of the given numbers.

    Args:
        title: what `describe` begins with.
        labels: int32 [len(shards)], -1 where unlabelled.
        numbers: int [n], which of the shards' records; None: all.
        shuffled: the records are stored in a random order.
    """

    def __init__(
        self,
        title: str,
        shards: Shards,
        field: ImageField,
        labels: np.ndarray,
        classes: tuple[str, ...],
        numbers: np.ndarray | None = None,
        shuffled: bool = False,
    ):
        self.title, self.shards, self.field, self.classes, self.shuffled = title, shards, field, classes, shuffled
        self.numbers = numbers
        self.labels = labels if numbers is None else labels[numbers]

    def _number(self, i: int) -> int:
        i = range(len(self))[i]
        return i if self.numbers is None else int(self.numbers[i])

    def image(self, i: int) -> bytes | np.ndarray:
        return self.field.take(self.shards.read(self._number(i)))

    def name(self, i: int) -> str:
        file, k = self.shards.place(self._number(i))
        return f"{self.shards.files[file]}#{k}"

    def where(self, i: int) -> str:
        return str(self.shards.root / self.name(i))

    def describe(self) -> str:
        held = self.field
        pixels = "encoded images" if held.encoding == "image" else f"{held.dtype} pixels"
        checked = ""
        if self.shards.kind == "tfrecord" and fast_crc32c() is None:
            checked = "; checksums not verified (pip install google-crc32c)"
        return (
            f"{self.title}: {len(self)} records ({pixels}) in {len(self.shards.files)} {self.shards.kind} files, "
            f"{label_phrase(self)}{checked}"
        )


def label_classes(labels: np.ndarray, key: str, most: int = 1_000_000) -> tuple[str, ...]:
    """The classes "0", "1", ... up to the largest label; () when nothing is labelled.

    Raises: UserError for numbers too large to be those of classes.
    """
    last = int(labels.max(initial=-1))
    if last >= most:
        raise UserError(
            f"data.label_key={key} holds numbers up to {last}, which are no classes (0, 1, 2, ...). Name another "
            "feature, or data.label_key='' for none."
        )
    return tuple(str(c) for c in range(last + 1))


def _inflate(data: memoryview, room: int) -> bytes:
    """zlib's inverse that stops where more than `room` bytes would come out."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, room + 1)
    except zlib.error as error:
        raise BadImage(f"its pixels cannot be decompressed ({error})") from error
    if len(raw) > room or not stream.eof:
        raise BadImage("its compressed pixels are cut off, or more than its shape allows")
    return raw
