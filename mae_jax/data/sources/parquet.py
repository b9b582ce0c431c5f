"""Parquet files as Hugging Face datasets write them."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.core.plain import loads
from mae_jax.data.limits import MAX_DECODED, BadImage
from mae_jax.data.sources.base import (
    Source,
    Spec,
    held_out,
    integer_classes,
    label_phrase,
    number_labels,
    split_name,
)  # fmt: skip
from mae_jax.data.sources.shards import find_shards, split_shards


@dataclass(frozen=True)
class Parquet(Spec):
    """Encoded images in a column of Parquet files: struct<bytes, path> (Hugging Face's Image) or binary.

    - Words in the files' paths (train, val, validation, test) are the splits, where there are train and another, as in
      train-00000-of-00010.parquet. Otherwise the test split is a share of the rows, by the crc32 of file and number.
    - Class names come from the ClassLabel that Hugging Face writes into the schema; else whole numbers name themselves,
      and texts are class names. When a row has no label (null or -1), all are unlabelled.
    - Parquet is read by whole row groups, often 100 images: in random order each image costs its group, unless the
      cache holds them all. For training at full speed convert once with `mae_jax prepare`.

    Needs pyarrow: pip install pyarrow.

    Args:
        path: a directory (searched below), a file, or a pattern ("data/train-*.parquet").
        holdout: the share of rows kept for testing where there is no test file.
        image_key: the column of images.
        label_key: the column of labels; "" reads none, and "label" need not be there.
        cache_mb: megabytes of row groups that each process keeps.
    """

    path: str
    holdout: float = 0.1
    image_key: str = "image"
    label_key: str = "label"
    cache_mb: int = 256

    def open(self, split: str) -> Source:
        split = split_name(split)
        load_pyarrow()
        root, files = find_shards(self.path, (".parquet",))
        train, test = split_shards(root, files)
        needed = train if test is None else [*train, *test]  # classes are those of both
        columns = [_labels(file, self.image_key, self.label_key) for file in needed]
        labels, classes = _number(columns, root)
        used = needed if test is None else (test if split == "test" else train)
        kept = [numbers for file, numbers in zip(needed, labels, strict=True) if file in set(used)]
        source = Rows(root, used, self.image_key, self.cache_mb << 20, np.concatenate(kept), classes, split)
        if test is None:
            names = (
                f"{file.name}#{i}".encode() for file, part in zip(used, kept, strict=True) for i in range(len(part))
            )
            source.keep(held_out(names, self.holdout) == (split == "test"))
        if not len(source):
            raise UserError(f"The {split} split of {root} is empty: {sum(map(len, kept))} rows in {len(used)} files, "
                            f"data.holdout={self.holdout}.")  # fmt: skip
        return source


# Of the header's texts and lists, each of which is allocated before it is read (bytes, entries).
_BOUNDS = {"thrift_string_size_limit": 64 << 20, "thrift_container_size_limit": 1 << 20}


class Rows(Source):
    """Rows of Parquet files. Each process opens the files for itself and keeps the row groups it read last."""

    def __init__(
        self, root: Path, files: list[Path], column: str, limit: int, labels: np.ndarray, classes: tuple[str, ...],
        split: str,
    ):  # fmt: skip
        self.root, self.files, self.column, self.limit, self.split = root, files, column, limit, split
        self.labels, self.classes = labels, classes
        groups = [(f, g, n) for f, file in enumerate(files) for g, n in enumerate(_group_rows(file))]
        self.file, self.group, rows = (np.array(c, np.int64) for c in (zip(*groups) if groups else ((), (), ())))
        self.starts = np.append(0, np.cumsum(rows)).astype(np.int64)  # of each row group, among all rows
        self.numbers = np.arange(len(labels), dtype=np.int64)
        self._groups = _Groups()

    def keep(self, chosen: np.ndarray) -> None:
        """Keep the rows at `chosen` (bool [n]) alone."""
        self.labels, self.numbers = self.labels[chosen], self.numbers[chosen]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_groups"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._groups = _Groups()

    def image(self, i: int) -> bytes:
        group, row = self._place(i)
        data = self._groups(group, self._read, self.limit)[row].as_py()
        if isinstance(data, dict):
            data = data["bytes"]
        if data is None:
            raise BadImage("the row holds no bytes (only a path or null); write the data set with its images embedded")
        return data

    def _place(self, i: int) -> tuple[int, int]:
        """(row group among all, row in it)."""
        number = int(self.numbers[i])
        group = int(np.searchsorted(self.starts, number, side="right")) - 1
        return group, number - int(self.starts[group])

    def _read(self, group: int) -> Any:
        """The images of a row group, an Arrow array. A file object of its own: Arrow's readers are not thread safe."""
        pyarrow, parquet = load_pyarrow()
        try:
            with parquet.ParquetFile(self.files[self.file[group]], pre_buffer=False, **_BOUNDS) as file:
                claimed = file.metadata.row_group(int(self.group[group])).total_byte_size
                if not 0 <= claimed <= MAX_DECODED:
                    raise BadImage(f"its row group claims {claimed:,} bytes, over the limit of {MAX_DECODED:,}")
                table = file.read_row_group(int(self.group[group]), columns=[self.column], use_threads=False)
        except pyarrow.ArrowException as error:
            raise OSError(f"row group {self.group[group]} cannot be read: {error}") from error
        return table.column(0).combine_chunks()

    def name(self, i: int) -> str:
        group, row = self._place(i)
        first = int(np.searchsorted(self.file, self.file[group]))  # the file's first row group
        row += int(self.starts[group] - self.starts[first])
        return f"{self.files[self.file[group]].relative_to(self.root)}#{row}"

    def where(self, i: int) -> str:
        return str(self.root / self.name(i))

    def describe(self) -> str:
        rows = np.diff(self.starts)
        size = sum(f.stat().st_size for f in self.files) / max(len(rows), 1)
        return (
            f"parquet {self.root}: {len(self)} rows in {len(self.files)} files ({self.split}), {label_phrase(self)}; "
            f"each image costs a row group of about {rows.mean():.0f} rows, {size / 1e6:.3g} MB, unless it is among "
            f"the {self.limit >> 20} MB kept: `mae_jax prepare` is the fast way"
        )


class _Groups:
    """The row groups read last, up to a number of bytes (but always one). Threads share one reading of a group."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._reading: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, group: int, read: Any, limit: int) -> Any:
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            turn = self._reading.setdefault(group, threading.Lock())
        with turn:
            with self._lock:
                if group in self._kept:  # another thread was faster
                    return self._kept[group]
            images = read(group)
            with self._lock:
                self._kept[group] = images
                self._reading.pop(group, None)
                while len(self._kept) > 1 and sum(a.nbytes for a in self._kept.values()) > limit:
                    self._kept.popitem(last=False)
        return images


def load_pyarrow() -> tuple[Any, Any]:
    """(pyarrow, pyarrow.parquet), or a UserError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow, which is not installed: pip install pyarrow. "
                        f"The import said: {error}.") from error  # fmt: skip
    return pyarrow, pyarrow.parquet


def _group_rows(file: Path) -> list[int]:
    _, parquet = load_pyarrow()
    with parquet.ParquetFile(file, **_BOUNDS) as opened:
        about = opened.metadata
    return [about.row_group(g).num_rows for g in range(about.num_row_groups)]


def _labels(file: Path, image_key: str, label_key: str) -> tuple[Any, tuple[str, ...]]:
    """(the labels of a file, numpy: numbers with -1 for null, or texts with None; the schema's class names)."""
    pyarrow, parquet = load_pyarrow()
    try:
        with parquet.ParquetFile(file, **_BOUNDS) as opened:
            schema = opened.schema_arrow
            _check_image(schema, image_key, file)
            n = opened.metadata.num_rows
            if not label_key or (label_key == "label" and label_key not in schema.names):
                return np.full(n, -1, np.int64), ()
            if label_key not in schema.names:
                raise UserError(f"data.label_key='{label_key}': {file} has no such column. "
                                f"{nearest(label_key, schema.names)}")  # fmt: skip
            kind = schema.field(label_key).type
            column = opened.read(columns=[label_key], use_threads=False).column(0)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is no whole Parquet file: {error}. Fetch it again.") from error
    try:
        about = loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = about.get("info", {}).get("features", {}).get(label_key, {})
        names = tuple(map(str, feature.get("names") or ())) if isinstance(feature, dict) else ()
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{file}: what it says of itself ('huggingface' in its schema) cannot be read: {error}."
        ) from error
    if pyarrow.types.is_integer(kind):
        return column.cast(pyarrow.int64()).fill_null(-1).to_numpy(), names
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return np.array(column.to_pylist(), object), ()
    raise UserError(f"The column '{label_key}' of {file} is {kind}: whole numbers or texts expected as labels. "
                    "data.label_key names another column, '' none.")  # fmt: skip


def _check_image(schema: Any, key: str, file: Path) -> None:
    pyarrow, _ = load_pyarrow()
    binary = (pyarrow.types.is_binary, pyarrow.types.is_large_binary)
    if key not in schema.names:
        raise UserError(f"data.image_key='{key}': {file} has no such column. {nearest(key, schema.names)}")
    kind = schema.field(key).type
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not any(is_binary(kind) for is_binary in binary):
        raise UserError(f"The column '{key}' of {file} is {kind}: encoded images as struct<bytes: binary, path: "
                        "string> or binary expected. data.image_key names another column.")  # fmt: skip


def _number(columns: list[tuple[Any, tuple[str, ...]]], root: Path) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """(labels int32 of each file, classes of all); all -1 where a row has none."""
    what = f"The label column of {root}"
    if any(values.dtype == object for values, _ in columns):
        texts = [["" if v is None else str(v) for v in values] for values, _ in columns]
        distinct = sorted({t for part in texts for t in part})
        numbers, classes = number_labels(distinct, what)
        number = dict(zip(distinct, numbers.tolist(), strict=True)) | {"": -1}
        labels = [np.array([number[t] for t in part], np.int32) for part in texts]
    else:
        largest = max((int(v.max(initial=-1)) for v, _ in columns), default=-1)
        named = {names for _, names in columns if names}
        if len(named) > 1:
            raise UserError(f"The files of {root} name their classes differently, so their labels do not agree.")
        classes = named.pop() if named else integer_classes(largest, what)
        if largest >= len(classes):
            raise UserError(f"{what} holds {largest}, and the schema names {len(classes)} classes.")
        labels = [v.astype(np.int32) for v, _ in columns]
    if not classes or any((part < 0).any() for part in labels):
        return [np.full(len(part), -1, np.int32) for part in labels], ()
    return labels, classes
