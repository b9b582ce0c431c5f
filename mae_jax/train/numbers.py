"""Numbers gone wrong: which updates were skipped, which loss is a spike, when a run must go back to other data.

The step decides on the device and keeps the old weights (train/step.py: guard). What it decided is read here one step
late, when the next step is under way: two scalars per step, which no device waits for.
"""

import dataclasses
import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mae_jax.schema import Guard

FEWEST = 8  # losses of which a median is taken, at least


@dataclasses.dataclass
class Record:
    """What a run has been through. It is saved with every checkpoint, and at every roll-back.

    Attributes:
      history: [[first batch, number of the order of the data from there on]], ascending; the number is part of the key
        of the data's order and augmentation (`data_seed`). Batches that were undone are not in it.
      number: the last order that was begun. at: the step that the run was rolled back to with it.
      tries: roll-backs since the run last got past `trouble`, the last step at which its numbers were wrong.
      streak: updates skipped in a row. losses: of the last good steps, newest last.
      unread: [step, loss, updates skipped after it, and before it] of the last step: its turn comes when the next one
        is under way.
    """

    history: list[list[int]] = dataclasses.field(default_factory=lambda: [[0, 0]])
    number: int = 0
    at: int = 0
    tries: int = 0
    trouble: int = 0
    streak: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    unread: list[Any] | None = None

    @classmethod
    def of(cls, saved: Mapping[str, Any] | None) -> "Record":
        """The record in a checkpoint's data; a fresh one where there is none (an older version)."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in (saved or {}).items() if name in names})

    def to_json(self) -> dict[str, Any]:
        """What `of` reads."""
        return dataclasses.asdict(self)

    def rolled_back(self, to: int, trouble: int) -> None:
        """From batch `to` on comes another order; `trouble`: the last step that went wrong."""
        self.number, self.at = self.number + 1, to
        self.tries, self.trouble = self.tries + 1, max(self.trouble, trouble)
        self.history = [[first, n] for first, n in self.history if first < to] + [[to, self.number]]
        self.streak, self.losses, self.unread = 0, [], None


def order_at(history: Sequence[Sequence[int]], batch: int) -> int:
    """The number of the order of the data that holds for a batch."""
    return next((n for first, n in reversed(history) if first <= batch), 0)


def data_seed(seed: int, order: int) -> int:
    """The seed of order and augmentation of the data; order 0 is the run's own, `train.seed`."""
    if order == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"mae_jax {seed} {order}".encode()).digest()[:8], "little") >> 1


class Numbers:
    """Follows the steps of a run.

    Args:
      skipped: updates skipped before the first step.
    """

    def __init__(self, settings: Guard, record: Record, skipped: int):
        self.settings, self.record = settings, record
        self._skipped = skipped  # when the last step that was read was done
        self._unread: tuple[int, Mapping[str, Any]] | None = None
        if record.unread is not None:
            step, loss, after, self._skipped = record.unread
            self._unread = step, {"loss": loss, "skipped": after, "grad_norm": math.nan}
        self.first_bad: tuple[int, dict[str, float]] | None = None  # (step, its metrics) at which the streak began

    @property
    def limit(self) -> np.float32 | None:
        """The loss above which the next update is to be skipped; None: no limit.

        The median moves with the loss, so a factor means the same all along; a negative loss (a cosine) has its limit
        as far above the median.
        """
        if not self.settings.spike:
            return None
        losses = self.record.losses[-self.settings.spike_window :]
        if len(losses) < FEWEST:
            return np.float32(np.inf)  # the same program from the first step on
        median = statistics.median(losses)
        return np.float32(median + (self.settings.spike - 1) * abs(median))

    def took(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Step `step` is under way, so the one before it is read -> whether too many were skipped in a row."""
        for name in ("loss", "skipped"):
            if isinstance(metrics[name], jax.Array):
                metrics[name].copy_to_host_async()
        before, self._unread = self._unread, (step, metrics)
        return before is not None and self._enter(*before)

    def flush(self) -> bool:
        """The last step of all is read -> as `took`."""
        before, self._unread = self._unread, None
        return before is not None and self._enter(*before)

    def _enter(self, step: int, metrics: Mapping[str, Any]) -> bool:
        record = self.record
        loss, skipped = float(metrics["loss"]), int(metrics["skipped"])
        bad, self._skipped = skipped > self._skipped, skipped
        if not bad:
            record.streak, self.first_bad = 0, None
            if self.settings.spike:
                record.losses = [*record.losses, loss][-self.settings.spike_window :]
            return False
        record.streak += 1
        if self.first_bad is None:
            self.first_bad = step - record.streak + 1, {k: float(v) for k, v in jax.device_get(dict(metrics)).items()}
        return record.streak >= self.settings.skips

    def to_save(self) -> dict[str, Any]:
        """The record for a checkpoint of the state after the step that is still unread."""
        unread = None
        if self._unread is not None:
            step, metrics = self._unread
            unread = [step, float(metrics["loss"]), int(metrics["skipped"]), self._skipped]
            if step > self.record.trouble and not self.record.streak:
                self.record.tries = 0  # past it
        return self.record.to_json() | {"unread": unread}
