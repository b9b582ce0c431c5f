"""Any part of any batch from its number: what the workers hold."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage
from mae_jax.data.order import Draws
from mae_jax.data.picture import Picture
from mae_jax.data.sources.base import Source
from mae_jax.data.views import Draw, Views

BAD_IN_A_ROW = 20  # records that may fail one after the other before the data as a whole are called bad
PROBLEMS = "problems"  # of a part of a batch: {record: reason} as JSON

Batch = dict[str, np.ndarray]
Stages = Sequence[tuple[int, Views]]  # (number of the first batch, what to make of a record from there on)
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]  # of one sample


class Stage(NamedTuple):
    """What is made of a record from batch `start` on, and the arrays that come of it."""

    start: int
    views: Views
    shapes: Shapes


@dataclass(frozen=True)
class Plan:
    """Computes any part of a batch.

    Attributes:
        stages: what to make of each record, by number of the batch; ascending.
        batch: the global batch, of which this process has the `rows`.
        due: position in the whole of training (or of the evaluation) -> record.
        part_rows: rows in each part in which a batch is computed.
        count: records of an evaluation; None: training.
        repeats: positions in a row that are views of one record.
    """

    source: Source
    stages: Sequence[Stage]
    batch: int
    seed: int
    rows: range
    due: Callable[[int], int]
    part_rows: int
    count: int | None = None
    repeats: int = 1

    @property
    def parts(self) -> int:
        """Parts of a batch."""
        return -(-len(self.rows) // self.part_rows)

    @property
    def part_bytes(self) -> int:
        """Of the arrays of a part."""
        views = (sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in s.shapes.values()) for s in self.stages)
        label = 4 * int(np.prod(self.source.labels.shape[1:]))
        return self.part_rows * (max(views) + label + 6)  # index, replaced and valid

    def __call__(self, number: int) -> dict[str, Any]:
        """Part number % parts of batch number // parts. Raises UserError."""
        k, part = divmod(number, self.parts)
        rows = self.rows[part * self.part_rows : (part + 1) * self.part_rows]
        stage = next(stage for stage in reversed(self.stages) if stage.start <= k)
        due = [self.due(k * self.batch + row) for row in rows]
        index = np.empty(len(due), np.int32)
        arrays = {name: np.empty((len(due), *shape), dtype) for name, (shape, dtype) in stage.shapes.items()}
        problems: dict[int, str] = {}
        opened: dict[int, dict[str, Any]] = {}  # the last record, for the views that repeat it
        for place, (record, row) in enumerate(zip(due, rows, strict=True)):
            draw = Draws(self.seed, k * self.batch + row, self.repeats)
            sample = {name: array[place] for name, array in arrays.items()}

            def load(i: int, draw: Draw = draw, sample: Batch = sample) -> None:
                if i not in opened:
                    opened.clear()
                    opened[i] = open_record(self.source, i)
                stage.views.fill(opened[i], draw, sample)

            _, index[place] = first_readable(self.source, record, load, problems)
        out: dict[str, Any] = arrays | {
            "label": self.source.labels[index].astype(np.int32),
            "index": index,
            "replaced": index != np.array(due, np.int32),
            PROBLEMS: json.dumps(problems) if problems else "",
        }
        if self.count is not None:
            positions = k * self.batch + np.array(rows)
            out["valid"] = (positions < self.count) & ~out["replaced"]
        return out


def open_record(source: Source, i: int) -> dict[str, Any]:
    """Record i, its image as a `Picture`, so that several views of it decode it once."""
    record = dict(source[i])
    if "image" in record:
        record["image"] = Picture(record["image"])
    return record


def first_readable(
    source: Source, record: int, load: Callable[[int], Any], problems: dict[int, str]
) -> tuple[Any, int]:
    """(load(i), i) for the first i of record, record + 1, ... (round the end) at which `load` does not fail.

    Notes {record: reason} of the others in `problems`.
    """
    reason = ""
    for tried in range(BAD_IN_A_ROW):
        i = (record + tried) % len(source)
        try:
            return load(i), i
        except (BadImage, OSError) as error:
            reason = f"{source.where(i)}: {error}"
            problems[i] = reason
    raise UserError(
        f"{BAD_IN_A_ROW} records one after the other could not be used, so something is wrong with the data as a "
        f"whole or with what the config says of them. The last was {reason}."
    )
