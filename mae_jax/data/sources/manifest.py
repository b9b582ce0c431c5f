"""A table that lists images: CSV or Parquet with the columns path, label and split."""

import csv
import itertools
import os
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.base import held_out, number_labels
from mae_jax.data.sources.names import Names

SPLIT_CODES = (
    "train",
    "val",
    "test",
    "validation",
)  # the test splits in the order in which the folder source takes them
LOOKED_FOR = 100  # files that must be there when the manifest is opened

Row = tuple[str, str, str]  # path, label, split; "" where there is none


def read_manifest(
    file: str, root: Path, split: str, holdout: float, exists: Callable[[Path], bool] = Path.is_file
) -> tuple[Names, np.ndarray, tuple[str, ...]]:
    """(names, labels int32 [n] with -1 for none, classes) of a split. Classes are those of all rows.

    Without a split column, and where all rows are "train", the held-out share of `held_out` is the test split. Of
    "val", "test" and "validation" the first that occurs is the test split.

    Args:
        exists: what must hold for the first LOOKED_FOR paths.

    Raises: UserError that names the line (CSV) or row (Parquet) and the column.
    """
    path = find_table(file)
    numbers: dict[str, int] = {}  # of each label text, in order of appearance
    labels, codes, sums = array("i"), array("b"), array("Q")

    def paths() -> Iterator[bytes]:
        for i, (name, label, part) in enumerate(_rows(path)):
            _check_path(name, path, i)
            if part not in SPLIT_CODES:
                raise UserError(
                    f"{_place(path, i)}, column 'split': '{part}' is no split. {nearest(part, SPLIT_CODES)}"
                )
            labels.append(numbers.setdefault(label, len(numbers)) if label else -1)
            codes.append(SPLIT_CODES.index(part))
            encoded = os.fsencode(name)
            sums.append(zlib.crc32(encoded) << 32 | zlib.adler32(encoded))
            yield encoded

    names = Names.of(paths())
    if not len(names):
        raise UserError(f"The manifest {path} lists no image: it needs at least one row below its header.")
    _check_unique(names, np.frombuffer(sums, np.uint64), path)
    first = Names(names.block, names.starts[:LOOKED_FOR], names.lengths[:LOOKED_FOR])
    for i, name in enumerate(first):
        if not exists(root / os.fsdecode(name)):
            raise UserError(f"{_place(path, i)}, column 'path': there is no file {root / os.fsdecode(name)}. Paths are "
                            "relative to data.path.")  # fmt: skip
    remap, classes = number_labels(list(numbers), f"The column 'label' of {path}")
    given = np.frombuffer(labels, np.int32)
    label = np.append(remap, -1).astype(np.int32)[given]  # -1 takes the last
    chosen = _of_split(np.frombuffer(codes, np.int8), names, split, holdout)
    if not chosen.any():
        raise UserError(f"The {split} split of the manifest {path} is empty: no row of its column 'split' says so, and "
                        f"data.holdout={holdout} of {len(names)} rows.")  # fmt: skip
    return names.take(chosen), label[chosen], classes


def find_table(file: str) -> Path:
    """A manifest's path. Raises UserError where there is none."""
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"data.manifest={file}: there is no such file ({path}). {nearest(path.name, beside)}")
    return path


def _of_split(codes: np.ndarray, names: Names, split: str, holdout: float) -> np.ndarray:
    """bool [n]: the rows of a split."""
    test = next((c for c in range(1, len(SPLIT_CODES)) if (codes == c).any()), None)
    if test is None:
        return held_out(names, holdout) == (split == "test")
    return codes == (test if split == "test" else 0)


def _rows(path: Path) -> Iterator[Row]:
    return _parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            at = _columns(header, path)
            for row in reader:
                if not row:  # a blank line
                    continue
                if len(row) != len(header):
                    raise UserError(f"Line {reader.line_num} of {path} has {len(row)} fields, and the header names "
                                    f"{len(header)} ({', '.join(header)}).")  # fmt: skip
                # Without a split column every row is "train": the holdout then makes the test split.
                yield (row[at["path"]], row[at["label"]] if "label" in at else "",
                       row[at["split"]] if "split" in at else "train")  # fmt: skip
        except csv.Error as error:
            raise UserError(f"Line {reader.line_num} of {path} is no valid CSV: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    from mae_jax.data.sources.parquet import load_pyarrow

    pyarrow, parquet = load_pyarrow()
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is no whole Parquet file: {error}.") from error
    with file:
        at = _columns(file.schema_arrow.names, path)
        for batch in file.iter_batches(columns=list(at), use_threads=False):
            column = {name: batch.column(name).to_pylist() for name in at}
            none = [None] * len(batch)
            rows = zip(column["path"], column.get("label", none), column.get("split", ["train"] * len(batch)))
            for name, label, part in rows:
                yield str(name or ""), "" if label is None else str(label), str(part)


def _columns(header: list[str], path: Path) -> dict[str, int]:
    if "path" not in header:
        raise UserError(f"The manifest {path} has no column 'path': its header names {', '.join(header) or 'nothing'}. "
                        f"{nearest('path', header)} Columns read are path, label and split.")  # fmt: skip
    twice = {name for name in header if header.count(name) > 1}
    if twice & {"path", "label", "split"}:
        raise UserError(f"The manifest {path} names the column '{sorted(twice)[0]}' twice.")
    return {name: header.index(name) for name in ("path", "label", "split") if name in header}


def _check_path(name: str, path: Path, row: int) -> None:
    if not name:
        raise UserError(f"{_place(path, row)}, column 'path': it is empty.")
    if "\0" in name or name.startswith("/") or (".." in name and ".." in name.split("/")):
        raise UserError(f"{_place(path, row)}, column 'path': {name!r} leaves data.path. Paths relative to data.path, "
                        "without '..', expected.")  # fmt: skip


def _check_unique(names: Names, sums: np.ndarray, path: Path) -> None:
    """No name comes twice. Equal checksums are candidates, which are then compared by their bytes."""
    order = np.argsort(sums, kind="stable")
    ordered = sums[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    seen: dict[bytes, int] = {}
    for i in np.unique(order[np.concatenate([same, same + 1])]).tolist():
        name = names[i]
        if name in seen:
            raise UserError(f"{_place(path, i)}, column 'path': {os.fsdecode(name)!r} stands there twice, first in "
                            f"{_place(path, seen[name], short=True)}.")  # fmt: skip
        seen[name] = i


def _place(path: Path, row: int, short: bool = False) -> str:
    """Where record `row` (from 0) stands: a line of CSV is counted anew, since only errors ask for it."""
    if path.suffix == ".parquet":
        place = f"row {row}"
    else:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            next(reader, None)
            next(itertools.islice((r for r in reader if r), row, None))
            place = f"line {reader.line_num}"
    return place if short else f"{place.capitalize()} of {path}"
