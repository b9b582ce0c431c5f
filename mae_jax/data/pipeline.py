"""Batches by number, on grain: batch k is a function of (seed, k) and of nothing else.

The whole plan is arithmetic on the number of the batch. Position g = k * batch + row counts samples from the start of
training: epoch g // n is a permutation of the n records drawn from (seed, epoch), and what is random about the sample
is drawn from (seed, g). grain's part is to compute batches ahead of need, in threads or in processes, in order.
So starting at batch k needs no saved state, and neither workers nor processes change a bit.
"""

import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import grain
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage
from mae_jax.data.sources.base import Source
from mae_jax.data.views import Views

ENDLESS = 1 << 40  # batches in a training run
BAD_IN_A_ROW = 20  # records that may fail one after the other before the data as a whole are called bad
MESSAGES = 5  # about bad images, per worker
PARENT_WATCH = 0.5  # seconds between a worker's looks at its parent

_ORDER = 0  # which stream of random numbers: the last word of Philox's counter
_AUGMENT = 1  # and upwards: one stream for each view that draws for itself

Batch = dict[str, np.ndarray]


def train_batches(
    source: Source,
    views: Views,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    prefetch: int = 4,
) -> "Batches":
    """Endless shuffled batches, every record once per epoch; batches run across the borders of epochs.

    Args:
        source: what to read; views: what to make of each record.
        batch: the global batch. This process gets rows [process_index * b, (process_index + 1) * b) of it,
            b = batch / process_count.
        seed: of the order and of the augmentation, 0 <= seed < 2^63.
        start: the number of the first batch.
        workers: worker processes; 0 computes in threads of this one. With workers, the calling script's top level
            must be importable (`if __name__ == "__main__":`), as multiprocessing's spawn asks.
        prefetch: batches to hold ready.

    Yields: what `views` names (image [b, h, w, c]), label int32 [b] (-1: none; [b, n] where each token has one), index
        int32 [b] (number of the record in the source), replaced bool [b] (the record that was due could not be read;
        index and label are the stand-in's).

    Raises: UserError, at once if no record at the head of the source can be read, else when BAD_IN_A_ROW records
        one after the other fail.
    """
    plan = _plan(source, views, batch, seed, process_index, process_count)
    return _start(plan, start, ENDLESS, workers, prefetch)


def eval_batches(
    source: Source,
    views: Views,
    *,
    batch: int,
    process_index: int = 0,
    process_count: int = 1,
    limit: int | None = None,
    workers: int = 0,
    prefetch: int = 4,
) -> "Batches":
    """Every record once, in order; the last batch is filled up by repeating the last record.

    Args: as `train_batches`, and
        limit: take so many records only: the same ones each time, spread over the source at random (its order may
            go by class), in order.

    Yields: as `train_batches`, and valid bool [b], False for what fills up and for records that could not be read.
    """
    picked = np.arange(len(source))
    if limit is not None and limit < len(source):
        if limit < 1:
            raise UserError(f"A limit of {limit} images leaves nothing to evaluate: at least 1 is needed.")
        picked = np.sort(_permutation(0, 0, len(source))[:limit])
    plan = _plan(source, views, batch, 0, process_index, process_count, picked)
    return _start(plan, 0, -(-len(picked) // batch), workers, prefetch)


def fingerprint(source: Source) -> dict[str, Any]:
    """What must be equal for a run to go on with this source: length, labels, and the names of up to 256 records.

    Names are relative to the root, so data may move. Reads no image.
    """
    some = np.unique(np.linspace(0, len(source) - 1, 256).astype(int))
    names = "\0".join(source.name(int(i)) for i in some)
    return {
        "length": len(source),
        "labels_crc32": zlib.crc32(np.ascontiguousarray(source.labels, "<i4").tobytes()),
        "names_crc32": zlib.crc32(names.encode("utf-8", "surrogateescape")),
    }


@final
class Batches(Iterator[Batch]):
    """An iterator over batches that knows its position and can be closed (also as a context manager).

    Attributes:
        position: number of the batch that comes next. Record it after taking a batch; `start=` takes it.
        stop: `position` at the end.
    """

    def __init__(self, dataset: grain.IterDataset, start: int, stop: int):
        self.position = start
        self.stop = stop
        self._iterator = iter(dataset)

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self.position += 1
        return {key: np.asarray(value) for key, value in batch.items()}  # from a worker: grain's subclass

    def close(self) -> None:
        """End the threads and processes behind it."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Plan:
    """Computes any batch from its number: what the workers hold."""

    source: Source
    views: Views
    batch: int
    seed: int
    rows: range  # of the global batch: this process's
    picked: np.ndarray | None  # evaluation: the records, in order; None: training
    orders: "Orders" = field(compare=False)

    def __call__(self, number: int) -> Batch:
        due = [self._due(number * self.batch + row) for row in self.rows]
        loaded = [self._load(i, number * self.batch + row) for i, row in zip(due, self.rows, strict=True)]
        index = np.array([record for _, record in loaded], np.int32)
        out = {name: np.stack([sample[name] for sample, _ in loaded]) for name in self.views.leaves}
        out |= {
            "label": self.source.labels[index].astype(np.int32),
            "index": index,
            "replaced": index != np.array(due, np.int32),
        }
        if self.picked is not None:
            first = number * self.batch + self.rows.start
            out["valid"] = (first + np.arange(len(index)) < len(self.picked)) & ~out["replaced"]
        return out

    def _due(self, position: int) -> int:
        if self.picked is not None:
            return int(self.picked[min(position, len(self.picked) - 1)])
        epoch, place = divmod(position, len(self.source))
        return int(self.orders(epoch)[place])

    def _load(self, record: int, position: int) -> tuple[Batch, int]:
        """(arrays, the record they are of): the record due, or else the next one that can be read."""

        def load(i: int) -> Batch:
            return self.views(self.source[i], lambda stream: _generator(self.seed, position, _AUGMENT + stream))

        return first_readable(self.source, record, load)


class Orders:
    """The order of each epoch, the last two kept. The cache stays behind when pickled."""

    def __init__(self, seed: int, length: int):
        self.seed, self.length = seed, length
        self._kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __call__(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._kept:
                self._kept = {e: o for e, o in self._kept.items() if abs(e - epoch) == 1}
                self._kept[epoch] = _permutation(self.seed, epoch, self.length)
            return self._kept[epoch]

    def __reduce__(self):
        return Orders, (self.seed, self.length)


def first_readable(source: Source, record: int, load: Callable[[int], Batch]) -> tuple[Batch, int]:
    """(load(i), i) for the first i of record, record + 1, ... (round the end) at which `load` does not fail."""
    for tried in range(BAD_IN_A_ROW):
        i = (record + tried) % len(source)
        try:
            return load(i), i
        except (BadImage, OSError) as error:
            reason = f"{source.where(i)}: {error}"
            _say(f"mae_jax: passed over {reason}")
    raise UserError(
        f"{BAD_IN_A_ROW} records one after the other could not be used, so something is wrong with the data as a "
        f"whole or with what the config says of them. The last was {reason}."
    )


def _plan(
    source: Source,
    views: Views,
    batch: int,
    seed: int,
    process_index: int,
    process_count: int,
    picked: np.ndarray | None = None,
) -> Plan:
    if batch < 1 or batch % process_count:
        raise UserError(
            f"The global batch of {batch} cannot be divided over {process_count} processes: train.batch must be a "
            f"positive multiple of {process_count}."
        )
    if not 0 <= seed < 2**63:
        raise UserError(f"train.seed is {seed}: 0 <= seed < 2^63 expected.")
    # One dtype for all: that of the first record that can be read.
    example, _ = first_readable(source, 0, lambda i: views.plain()(source[i], lambda s: _generator(seed, 0, s)))
    views = views.of_dtypes(example)
    b = batch // process_count
    rows = range(process_index * b, (process_index + 1) * b)
    return Plan(source, views, batch, seed, rows, picked, Orders(seed, len(source)))


def _start(plan: Plan, start: int, stop: int, workers: int, prefetch: int) -> Batches:
    if prefetch < 1 or workers < 0:
        raise UserError(f"data.workers={workers} with {prefetch} batches ahead: at least 0 and 1 expected.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(prefetch, cores) if workers == 0 else 1
    ahead = prefetch if workers == 0 else 1
    dataset = grain.MapDataset.range(start, stop).map(plan).to_iter_dataset(grain.ReadOptions(threads, ahead))
    if workers:
        _mark_flags_parsed()
        options = grain.MultiprocessingOptions(workers, max(1, prefetch // workers))
        dataset = dataset.mp_prefetch(options, worker_init_fn=partial(_worker, os.getpid()))
    return Batches(dataset, start, stop)


def _mark_flags_parsed() -> None:
    """grain reads absl flags in its workers, which raises in a program that has not parsed any."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _worker(parent: int, index: int, count: int) -> None:
    """A worker ends when its parent does, however that ended: else it would live on and hold the terminal's pipe.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started the process ends, and grain starts from threads.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name=f"parent watch {index}/{count}").start()


def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """A uniform permutation of range(length), from raw Philox words: numpy promises these for all versions."""
    words = _philox(seed, epoch, _ORDER).random_raw(length)
    return np.argsort(words, kind="stable").astype(np.int32 if length < 2**31 else np.int64)


def _generator(seed: int, position: int, stream: int) -> np.random.Generator:
    return np.random.Generator(_philox(seed, position, stream))


def _philox(seed: int, number: int, stream: int) -> np.random.Philox:
    return np.random.Philox(key=[seed, number], counter=[0, 0, 0, stream])


_said = 0
_saying = threading.Lock()


def _say(message: str) -> None:
    """To stderr, MESSAGES times in this process."""
    global _said
    with _saying:
        _said += 1
        if _said <= MESSAGES:
            more = " (further ones are not reported)" if _said == MESSAGES else ""
            print(message + more, file=sys.stderr, flush=True)
