"""Batches by number, on grain: batch k is a function of (seed, k) and of nothing else.

The whole plan is arithmetic on the number of the batch (plan.py, order.py). Position g = k * batch + row counts samples
from the start of training: which record is due there follows from (seed, g), and what is random about the sample is
drawn from (seed, g). Batches are computed ahead of need, in order: in threads by grain, in processes by workers.py.
So starting at batch k needs no saved state, and neither workers nor processes change a bit.

A batch is computed in parts of a few megabytes, so that several threads or processes share one batch and what is held
ready is bounded in bytes.
"""

import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import grain
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.batches import Batches, Problems
from mae_jax.data.order import Draws, Listed, Shuffled, permutation
from mae_jax.data.plan import Plan, Stage, Stages, first_readable, open_record
from mae_jax.data.sources.base import Source
from mae_jax.data.views import Views
from mae_jax.data.workers import Workers, cores

ENDLESS = 1 << 40  # batches in a training run
PART_BYTES = 8 << 20  # of one part of a batch
AHEAD = 4  # whole batches held ready, where memory allows
MEMORY_MB = 1024  # for what is held ready
MAX_BAD = 0.05


def train_batches(
    source: Source,
    views: Views | Stages,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    memory_mb: int = MEMORY_MB,
    repeats: int = 1,
    max_bad: float = MAX_BAD,
) -> Batches:
    """Endless shuffled batches, every record once per epoch; batches run across the borders of epochs.

    Args:
        source: what to read.
        views: what to make of each record; or several with the number of the batch from which each holds.
        batch: the global batch. This process gets rows [process_index * b, (process_index + 1) * b) of it,
            b = batch / process_count.
        seed: of the order and of the augmentation, 0 <= seed < 2^63.
        start: the number of the first batch.
        workers: worker processes; 0 computes in threads of this one. With workers, the calling script's top level
            must be importable (`if __name__ == "__main__":`), as multiprocessing's spawn asks.
        memory_mb: bound in MB of what is computed ahead of need.
        repeats: so many samples in a row are views of one record, which is read and decoded once (repeated
            augmentation, Hoffer et al. 2019; MAE on video, Feichtenhofer et al. 2022); epochs are longer by it.
        max_bad: share of the records that may be unreadable before it is an error with their list.

    Yields: what `views` names (image [b, h, w, c]), label int32 [b] (-1: none; [b, n] where each token has one), index
        int32 [b] (number of the record in the source), replaced bool [b] (the record that was due could not be read;
        index and label are the stand-in's).

    Raises: UserError, at once if no record at the head of the source can be read, else when more than `max_bad` of
        the records fail.
    """
    if repeats < 1 or batch % repeats:
        raise UserError(f"data.repeats={repeats} views of each record: a divisor of train.batch={batch} expected.")
    stages = [(0, views)] if isinstance(views, Views) else views
    due = Shuffled(_checked(seed), source.parts, repeats)
    plan = make_plan(source, stages, batch, seed, _rows(batch, process_index, process_count), due, repeats=repeats)
    return _start(plan, start, ENDLESS, workers, memory_mb, max_bad)


def eval_batches(
    source: Source,
    views: Views,
    *,
    batch: int,
    process_index: int = 0,
    process_count: int = 1,
    limit: int | None = None,
    start: int = 0,
    workers: int = 0,
    memory_mb: int = MEMORY_MB,
    max_bad: float = MAX_BAD,
) -> Batches:
    """Every record once, in order; the last batch is filled up by repeating the last record.

    Args: as `train_batches`, and
        limit: take so many records only: the same ones each time, spread over the source at random (its order may
            go by class), in order.
        start: the number of the first batch.

    Yields: as `train_batches`, and valid bool [b], False for what fills up and for records that could not be read.
    """
    picked = np.arange(len(source))
    if limit is not None and limit < len(source):
        if limit < 1:
            raise UserError(f"A limit of {limit} images leaves nothing to evaluate: at least 1 is needed.")
        picked = np.sort(permutation(0, 0, len(source))[:limit])
    rows = _rows(batch, process_index, process_count)
    plan = make_plan(source, [(0, views)], batch, 0, rows, Listed(picked), count=len(picked))
    return _start(plan, start, -(-len(picked) // batch), workers, memory_mb, max_bad)


def fingerprint(source: Source) -> dict[str, Any]:
    """What must be equal for a run to go on with this source: length, labels, and the names of up to 256 records.

    Names are relative to the root, so data may move. Reads no image.
    """
    some = np.unique(np.linspace(0, len(source) - 1, 256).astype(int))
    names = "\0".join(source.name(int(i)) for i in some)
    found: dict[str, Any] = {
        "length": len(source),
        "labels_crc32": zlib.crc32(np.ascontiguousarray(source.labels, "<i4").tobytes()),
        "names_crc32": zlib.crc32(names.encode("utf-8", "surrogateescape")),
    }
    if len(source.parts) > 1:
        found["parts"] = [[part.length, part.weight] for part in source.parts]
    return found


def _checked(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise UserError(f"train.seed is {seed}: 0 <= seed < 2^63 expected.")
    return seed


def _rows(batch: int, process_index: int, process_count: int) -> range:
    """The rows of the global batch that are this process's."""
    if batch < 1 or batch % process_count:
        raise UserError(
            f"The global batch of {batch} cannot be divided over {process_count} processes: train.batch must be a "
            f"positive multiple of {process_count}."
        )
    b = batch // process_count
    return range(process_index * b, (process_index + 1) * b)


def make_plan(
    source: Source, stages: Sequence[tuple[int, Views]], batch: int, seed: int, rows: range, due: Any,
    count: int | None = None, repeats: int = 1,
) -> Plan:  # fmt: skip
    settled, largest = [], 1
    for first, views in stages:
        # One dtype for all: that of the first record that can be read.
        example, _ = first_readable(source, 0, partial(_plain, views.plain(), source), {})
        shapes = {name: (x.shape, x.dtype) for name, x in example.items()}
        settled.append(Stage(first, views.of_dtypes(example), shapes))
        largest = max(largest, sum(x.nbytes for x in example.values()))
    part_rows = max(repeats, PART_BYTES // largest // repeats * repeats)  # a record's views are in one part
    return Plan(source, settled, batch, seed, rows, due, min(part_rows, len(rows)), count, repeats)


def _plain(views: Views, source: Source, i: int) -> dict[str, np.ndarray]:
    """Record i without anything random."""
    return views(open_record(source, i), Draws(0, 0))


def _start(plan: Plan, start: int, stop: int, workers: int, memory_mb: int, max_bad: float) -> Batches:
    if workers < 0 or memory_mb < 1:
        raise UserError(f"data.workers={workers} with data.memory_mb={memory_mb}: at least 0 and 1 expected.")
    if not 0 <= max_bad <= 1:
        raise UserError(f"data.max_bad={max_bad} is a share of the records: 0 <= max_bad <= 1 expected.")
    ahead = max(1, min((memory_mb << 20) // PART_BYTES, max(AHEAD * plan.parts, 2 * max(workers, cores()))))

    def parts(first: int) -> Iterator[dict[str, Any]]:
        """The parts from number `first` on."""
        if workers:
            return Workers(plan, first, stop * plan.parts, workers, max(1, ahead // workers), plan.part_bytes)
        numbers = grain.MapDataset.range(first, stop * plan.parts)
        return iter(numbers.map(plan).to_iter_dataset(grain.ReadOptions(min(ahead, cores()), ahead)))

    return Batches(parts, plan.parts, start, stop, Problems(plan.source, max_bad))
