"""The iterator over batches: puts parts together, keeps count of bad records, survives a worker that was killed."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.plan import PROBLEMS, Batch
from mae_jax.data.sources.base import Source
from mae_jax.data.workers import WorkerEnded, Workers

SAID = 10  # bad records that are named on stderr
LISTED = 50  # bad records that an error names
ENOUGH = 1000  # records that must have been seen, or all there are, before their bad share is judged
RESTARTS = 3  # times that killed workers are started again


class Problems:
    """The records that could not be read: {number: reason}, each named once on stderr."""

    def __init__(self, source: Source, max_bad: float):
        self.max_bad, self.length = max_bad, len(source)
        self.found: dict[int, str] = {}
        self.seen = 0  # samples so far

    def note(self, problems: str, samples: int) -> None:
        """Take in what a part of a batch says. Raises UserError when too many records are bad."""
        self.seen += samples
        if not problems:
            return
        for record, reason in json.loads(problems).items():
            if int(record) not in self.found:
                self.found[int(record)] = reason
                if len(self.found) <= SAID:
                    more = " (further ones are not named here)" if len(self.found) == SAID else ""
                    print(f"mae_jax: passed over {reason}{more}", file=sys.stderr, flush=True)
        of = min(self.length, max(self.seen, ENOUGH))
        if len(self.found) > self.max_bad * of:
            listed = [self.found[i] for i in sorted(self.found)]
            more = f"\n  and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
            raise UserError(
                f"{len(listed)} of the first {of} records could not be read, more than data.max_bad={self.max_bad:g} "
                f"allows. Mend or remove them, or raise data.max_bad:\n  " + "\n  ".join(listed[:LISTED]) + more
            )


@final
class Batches(Iterator[Batch]):
    """An iterator over batches that knows its position and can be closed (also as a context manager).

    Args:
        parts: number of a part -> iterator over the parts from there on.
        per_batch: parts in a batch.

    Attributes:
        position: number of the batch that comes next. Record it after taking a batch; `start=` takes it.
        stop: `position` at the end.
        problems: the records that could not be read so far.
    """

    def __init__(self, parts: Callable[[int], Any], per_batch: int, start: int, stop: int, problems: Problems):
        self.position, self.stop, self.problems = start, stop, problems
        self._parts, self._per_batch = parts, per_batch
        self._restarts = 0
        self._iterator = parts(start * per_batch)

    def __next__(self) -> Batch:
        first = self.position * self._per_batch
        batch = _joined([self._part(first + i) for i in range(self._per_batch)])
        self.position += 1
        return batch

    def _part(self, number: int) -> Batch:
        """The next part, which is `number`; where a worker was killed, by new workers."""
        while True:
            try:
                part = next(self._iterator)
                break
            except WorkerEnded as end:
                self._restart(end, number)
        self.problems.note(part.pop(PROBLEMS), len(part["index"]))
        return part

    @property
    def processes(self) -> list:
        """The worker processes, where there are any."""
        return self._iterator.processes if isinstance(self._iterator, Workers) else []

    def _restart(self, end: WorkerEnded, number: int) -> None:
        self.close()
        if not end.killed:
            raise UserError(
                f"{end}; what it wrote is above. Workers import the script that asks for them, so what that does must "
                f"stand under `if __name__ == '__main__':`. data.workers=0 decodes in threads of this process."
            ) from end
        if self._restarts == RESTARTS:
            raise UserError(
                f"{end}; workers have been started again {RESTARTS} times already. If memory runs out, lower "
                f"data.workers or data.memory_mb; data.workers=0 decodes in threads of this process."
            ) from end
        self._restarts += 1
        print(f"mae_jax: {end}; starting the workers again, no sample is lost", file=sys.stderr, flush=True)
        self._iterator = self._parts(number)

    def close(self) -> None:
        """End the threads and processes behind it."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
