"""What is known of every record before any is asked for (its place and its label), read once and kept in a file."""

import hashlib
import mmap
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.examples import BadExample, find_feature
from mae_jax.data.sources import index_file
from mae_jax.data.sources.records import open_array_record
from mae_jax.data.sources.tfrecord import scan

VERSION = 1
NOTE_AFTER = 5.0  # seconds of indexing after which the user is told, and told again
AT_ONCE = 64  # array_record's records in memory at a time


@dataclass(frozen=True)
class ShardIndex:
    """One file: its size (bytes) and time of change (ns) when it was read, and its records.

    Attributes:
        labels: int32 [n], -1 where the record has none.
        offsets, lengths: int64 [n], of the data in bytes; empty for array_record.
    """

    size: int
    changed: int
    labels: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray


def index_shards(kind: str, root: Path, files: Sequence[str], label_key: str) -> list[ShardIndex]:
    """The index of every file, from the cache where the file is unchanged, else by reading it.

    Args:
        kind: "array_record" or "tfrecord".
        root: the directory; files: relative to it.
        label_key: the feature that is the label, an integer; "": none, so records are not read.

    Raises: UserError where a file is damaged so that its records cannot be found, or where labels are no integers.
    """
    costly = kind == "tfrecord" or bool(label_key)  # array_record files say at once how many records they hold
    places = cache_places(kind, root, label_key) if costly else []
    known = next((found for place in places if (found := _load(place)) is not None), {})
    note, fresh, result = _Note(root, len(files)), {}, []
    for number, name in enumerate(files):
        status = os.stat(root / name)
        old = known.get(name)
        if old is None or (old.size, old.changed) != (status.st_size, status.st_mtime_ns):
            old = fresh[name] = _read(kind, root / name, label_key, status, note)
        note(number + 1, 0)
        result.append(old)
    note.done()
    if fresh and costly:
        _save(places, {name: shard for name, shard in (known | fresh).items() if (root / name).is_file()})
    return result


def cache_places(kind: str, root: Path, label_key: str) -> list[Path]:
    """Where the index may be kept: beside the files, or else in the user's cache directory."""
    key = hashlib.sha256(f"{kind}\0{label_key}".encode()).hexdigest()[:12]
    name = f"mae_jax-index-{key}.npz"
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return [root / f".{name}", index_file.home() / "records" / place / name]


def _read(kind: str, path: Path, label_key: str, status: os.stat_result, note: "_Note") -> ShardIndex:
    none = np.empty(0, np.int64)
    if kind == "tfrecord":
        offsets, lengths = scan(path)
        labels = np.full(len(offsets), -1, np.int32)
        if label_key and len(offsets):
            # Mapped, so that of each record only the pages are read that the walk to its label touches.
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
                if hasattr(mmap, "MADV_RANDOM"):
                    pages.madvise(mmap.MADV_RANDOM)
                with memoryview(pages) as view:
                    for i, (start, length) in enumerate(zip(offsets.tolist(), lengths.tolist())):
                        with view[start : start + length] as record:
                            labels[i] = _label(record, label_key, path)
                        note(None, 1)
        return ShardIndex(status.st_size, status.st_mtime_ns, labels, offsets, lengths)
    try:
        reader = open_array_record(path, options="")
    except OSError as error:
        raise UserError(str(error)) from error
    if not reader.ok():
        raise UserError(f"{path} is no whole array_record file: copy or prepare it again.")
    labels = np.full(reader.num_records(), -1, np.int32)
    if label_key:
        for i, whole in _array_records(reader, len(labels)):
            labels[i] = _label(memoryview(whole), label_key, path)
            note(None, 1)
    return ShardIndex(status.st_size, status.st_mtime_ns, labels, none, none)


def _array_records(reader, count: int) -> Iterator[tuple[int, bytes]]:
    """Every record that can be read, with its number."""
    for start in range(0, count, AT_ONCE):
        stop = min(start + AT_ONCE, count)
        try:
            yield from zip(range(start, stop), reader.read(start, stop))
        except RuntimeError:  # one of them is damaged: take them one by one
            for i in range(start, stop):
                try:
                    (record,) = reader.read([i])
                except RuntimeError:
                    continue  # unlabelled; a BadImage when it is asked for
                yield i, record


def _label(record: memoryview, key: str, path: Path) -> int:
    try:
        values = find_feature(record, key)
    except BadExample:
        return -1  # a BadImage when it is asked for
    if values is None or not len(values):
        return -1
    if not isinstance(values, np.ndarray) or values.dtype.kind != "i" or len(values) != 1:
        what = f"{len(values)} numbers" if isinstance(values, np.ndarray) else "bytes"
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            what = "floats"
        raise UserError(
            f"data.label_key={key}: a record of {path} holds {what} there, where one whole number, the class, is "
            "expected. Name another feature, or data.label_key='' for none."
        )
    return int(np.clip(values[0], -1, np.iinfo(np.int32).max))


def _load(place: Path) -> dict[str, ShardIndex] | None:
    """The index of each file in a cache; None where there is none that can be used."""
    held = index_file.load(place)
    try:
        if int(held["version"]) != VERSION:
            return None
        names, sizes, changed, counts = (held[k] for k in ("names", "sizes", "changed", "counts"))
        rows = [held[k] for k in ("labels", "offsets", "lengths")]
        cut = np.cumsum(counts)[:-1]
        parts = [np.split(row, cut) if len(row) else [row] * len(counts) for row in rows]
        found = {
            str(name): ShardIndex(int(size), int(time_), *shard)
            for name, size, time_, *shard in zip(names, sizes, changed, *parts)
        }
        return {name: shard for name, shard in found.items() if _sound(shard)}
    except (ValueError, KeyError, TypeError, IndexError, OverflowError):
        return None


def _sound(shard: ShardIndex) -> bool:
    """Whether an index, which lies beside data that come from elsewhere, leads to nothing outside its file."""
    columns = (shard.labels, shard.offsets, shard.lengths)
    if any(x.ndim != 1 or x.dtype.kind not in "iu" for x in columns) or len(shard.offsets) != len(shard.lengths):
        return False
    if not len(shard.offsets):
        return True
    inside = (shard.offsets >= 0) & (shard.lengths >= 0) & (shard.lengths <= shard.size)
    return len(shard.offsets) == len(shard.labels) and bool(
        (inside & (shard.offsets + shard.lengths <= shard.size)).all()
    )


def _save(places: Sequence[Path], shards: dict[str, ShardIndex]) -> None:
    """Into the first place that can be written: under another name first, so that no one reads half a file."""
    held = list(shards.values())
    none = np.empty(0, np.int64)
    arrays: dict[str, Any] = {
        "version": np.array(VERSION),
        "names": np.array(list(shards)),
        "sizes": np.array([s.size for s in held], np.int64),
        "changed": np.array([s.changed for s in held], np.int64),
        "counts": np.array([len(s.labels) for s in held], np.int64),
        "labels": np.concatenate([none.astype(np.int32), *(s.labels for s in held)]),
        "offsets": np.concatenate([none, *(s.offsets for s in held)]),
        "lengths": np.concatenate([none, *(s.lengths for s in held)]),
    }
    if errors := index_file.save(places, arrays):
        problem = errors[-1][1]
        print(f"mae_jax: the index of records could not be kept ({problem}): it will be made again", file=sys.stderr)


class _Note:
    """Tells on stderr how far a long indexing is."""

    def __init__(self, root: Path, files: int):
        self.root, self.files, self.file, self.records = root, files, 0, 0
        self.begun = self.last = time.monotonic()
        self.said = False

    def __call__(self, file: int | None, records: int) -> None:
        """`file` files are done (None: as before), and so many more records."""
        self.file = self.file if file is None else file
        self.records += records
        if time.monotonic() - self.last > NOTE_AFTER:
            self.last, self.said = time.monotonic(), True
            rate = self.records / (self.last - self.begun)
            print(f"mae_jax: reading the labels in {self.root}, once: {self.file} of {self.files} files, "
                  f"{self.records} records, {rate:.0f}/s", file=sys.stderr, flush=True)  # fmt: skip

    def done(self) -> None:
        if self.said:
            print(f"mae_jax: read {self.records} labels in {time.monotonic() - self.begun:.0f}s", file=sys.stderr)
