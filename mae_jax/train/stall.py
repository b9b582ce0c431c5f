"""How long the devices had nothing to do because a batch was not there."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

WORTH_SAYING = 0.05  # share of the time that starves the devices


class Stall:
    """Takes batches and measures the wait.

    A wait counts when, at its end, the step that was running has finished too: from some moment on the devices stood
    still. That moment is not known, so what counts is the whole wait: an upper bound.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lost = clock, 0.0
        self._since: float | None = None  # None until the first batch, which nothing could wait for
        self._said = False

    def take(self, batches: Iterator[Any], running: Mapping[str, Any] | None) -> Any:
        """The next batch. `running`: what the last step will give."""
        begin = self._clock()
        batch = next(batches)
        end = self._clock()
        if self._since is None:
            self._since = end
        elif running is None or _finished(running):
            self._lost += end - begin
        return batch

    def share(self) -> float:
        """Share of the time since the last call that was lost."""
        now = self._clock()
        since = now if self._since is None else self._since
        share = self._lost / (now - since) if now > since else 0.0
        self._since, self._lost = now, 0.0
        return share

    def advise(self, share: float) -> None:
        """Say once on stderr when input is what limits the run."""
        if share > WORTH_SAYING and not self._said:
            self._said = True
            print(
                f"mae_jax: the devices wait for input {share:.0%} of the time. `mae_jax data --config ...` shows which "
                f"stage is slow; more data.workers, `mae_jax prepare` or augment.where=device may help (docs/data.md).",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def _finished(arrays: Mapping[str, Any]) -> bool:
    return all(x.is_ready() for x in arrays.values())
