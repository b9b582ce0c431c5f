"""Embeddings of whole data sets: a vector per image with its name and label, as .npz or .parquet."""

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

import mae_jax
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import use_mesh
from mae_jax.data.sources import Source
from mae_jax.eval.features import check_pool, pool
from mae_jax.train.feed import eval_batches
from mae_jax.weights.opened import Opened

ROW_GROUP_BYTES = 32 << 20  # of a parquet file; what is held in memory


@dataclasses.dataclass(frozen=True)
class Written:
    """What `embed` has done: rows written, their shape, and the records that could not be read."""

    path: Path
    count: int
    dim: int
    bad: list[str]


class Writer(Protocol):
    """Takes rows as they come."""

    def add(self, columns: dict[str, Any]) -> None: ...
    def finish(self, target: Path) -> None: ...


def embed(opened: Opened, out: Path, *, how: str = "mean", tokens: bool = False, split: str = "all") -> Written:
    """Encode every image of the configured data and write `out`, whole or not at all.

    The columns: "features" [n, dim] float32; "name" (of the record, as a path below the folder); "label" (class number,
    -1 where there is none); "class" (its name, ""); "split" ("train" or "test"); with `tokens` "tokens" [n, patches,
    dim], after the last norm. An image that cannot be read has no row; it is counted and named. More of them than
    data.max_bad allows are an error, as in training.

    Args:
      how: the pooling, see eval/features.py.
      split: "train", "test" or "all".

    Raises:
      UserError: another ending than .npz or .parquet, no images, features that are not finite.
    """
    check_pool(how)
    if how == "tokens":
        raise UserError("--pool=tokens gives no vector per image: take --tokens to write the patch tokens besides.")
    if out.suffix not in WRITERS:
        raise UserError(f"'{out}': the ending says what is written, {' or '.join(WRITERS)}.")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UserError(f"cannot write '{out}': {'it is a directory' if out.is_dir() else 'its directory is missing'}.")
    sources = _sources(opened, split)
    encode = _encoder(opened, how, tokens)
    about = {
        "mae_jax": mae_jax.__version__, "method": opened.run.method.name, "pool": how,
        "source": str(opened.weights.info.get("source")), "step": opened.weights.info.get("step"),
        "data": {name: source.describe() for name, source in sources.items()},
    }  # fmt: skip
    total, dim, count = sum(map(len, sources.values())), 0, 0
    bad: list[str] = []
    with _scratch(out) as scratch:
        writer: Writer = WRITERS[out.suffix](scratch, total, about)
        for name, source in sources.items():
            with eval_batches(opened.run, source) as batches, use_mesh(opened.run.mesh):
                for columns in _rows(batches, source, encode, opened):
                    writer.add(columns | {"split": [name] * len(columns["name"])})
                    count, dim = count + len(columns["name"]), columns["features"].shape[1]
                    _progress(count, total)
                bad += batches.problems.found.values()
        writer.finish(scratch / out.name)
        os.replace(scratch / out.name, out)
    return Written(out, count, dim, bad)


def _sources(opened: Opened, split: str) -> dict[str, Source]:
    """The splits that are asked for; "all": the training split, and the test split where the data have one."""
    if split != "all":
        return {split: opened.run.open(split)}
    found = {"train": opened.run.open("train")}
    try:
        found["test"] = opened.run.open("test")
    except UserError as error:
        if "data.holdout" not in str(error):  # nothing is held out, and there is no test split of its own
            raise
    return found


def _encoder(opened: Opened, how: str, tokens: bool) -> Callable[[Any], dict[str, jax.Array]]:
    run, state = opened.run, opened.state
    rest = {"stats": state["stats"], "ema": state["ema"]["teacher"], "frozen": {}}

    @jax.jit
    def encode(params: Any, rest: Any, batch: Any) -> dict[str, jax.Array]:
        features = run.method.encode(params, rest, run.augment(batch))
        pooled = {"features": pool(features, how)}
        return pooled | ({"tokens": features.normed.astype(np.float32)} if tokens else {})

    return lambda batch: encode(state["params"], rest, batch)


def _rows(batches: Any, source: Source, encode: Callable, opened: Opened) -> Iterator[dict[str, Any]]:
    """The columns of each batch, without what fills it up and what could not be read."""
    for host in batches:
        batch = opened.run.put(host)
        batch.pop("valid", None)
        out, keep = jax.device_get(encode(batch)), host["valid"]
        if not keep.any():
            continue
        numbers, labels = host["index"][keep], host["label"][keep]
        found = {name: np.asarray(x)[keep] for name, x in out.items()}
        if not np.isfinite(found["features"]).all():
            wrong = numbers[~np.isfinite(found["features"]).all(axis=1)]
            raise UserError(f"the features of {source.where(int(wrong[0]))} are not finite: the weights have diverged.")
        names = [source.name(int(i)) for i in numbers]
        name = lambda c: source.classes[c] if 0 <= c < len(source.classes) else ""
        classes = [";".join(map(name, np.flatnonzero(c == 1))) if source.multilabel else name(c) for c in labels]
        yield {**found, "name": names, "label": labels.astype(np.int64), "class": classes}


class NpzWriter:
    """Arrays grow in files of their own and are zipped at the end, so that no more than a batch is held."""

    def __init__(self, scratch: Path, total: int, about: dict[str, Any]):
        self._scratch, self._total, self._about, self._count = scratch, total, about, 0
        self._arrays: dict[str, np.ndarray] = {}
        self._lists: dict[str, list] = {}

    def add(self, columns: dict[str, Any]) -> None:
        rows = len(columns["name"])
        for name, values in columns.items():
            if isinstance(values, list):
                self._lists.setdefault(name, []).extend(values)
                continue
            if name not in self._arrays:
                shape = (self._total, *values.shape[1:])
                path = self._scratch / f"{name}.npy"
                self._arrays[name] = np.lib.format.open_memmap(path, "w+", values.dtype, shape)
            self._arrays[name][self._count : self._count + rows] = values
        self._count += rows

    def finish(self, target: Path) -> None:
        arrays: dict[str, Any] = {name: array[: self._count] for name, array in self._arrays.items()}
        arrays |= {name: np.array(values, np.str_) for name, values in self._lists.items()}
        with open(target, "wb") as file:
            np.savez(file, **arrays, about=np.array(json.dumps(self._about)))


class ParquetWriter:
    """Row groups of about ROW_GROUP_BYTES; features are lists of fixed length."""

    def __init__(self, scratch: Path, total: int, about: dict[str, Any]):
        self._path, self._about = scratch / "rows.parquet", about
        self._file: Any = None
        self._waiting: list[Any] = []
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, columns: dict[str, Any]) -> None:
        import pyarrow as pa

        arrays = {}
        for name, values in columns.items():
            if isinstance(values, list) or values.ndim == 1:
                arrays[name] = pa.array(values)
                continue
            self._shapes[name] = values.shape[1:]
            flat = pa.array(np.ascontiguousarray(values, np.float32).ravel())
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
        self._waiting.append(pa.table(arrays))
        if sum(t.nbytes for t in self._waiting) >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        self._waiting = []
        if self._file is None:
            about = json.dumps(self._about | {"shapes": self._shapes})
            self._file = pq.ParquetWriter(self._path, table.schema.with_metadata({"mae_jax": about}))
        self._file.write_table(table.replace_schema_metadata(self._file.schema.metadata))

    def finish(self, target: Path) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()
        os.replace(self._path, target)


WRITERS: dict[str, Callable[..., Any]] = {".npz": NpzWriter, ".parquet": ParquetWriter}


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A directory beside `out` that is gone at the end, whatever happens."""
    folder = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _progress(count: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{count} of {total} images", end="\n" if count == total else "", file=sys.stderr, flush=True)
