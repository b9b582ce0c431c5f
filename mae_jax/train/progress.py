"""One line that says how far a run is, how fast, and when it will end."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_SMOOTHING_S = 30.0  # the rate shown forgets what is older than about this


class Progress:
    """Prints `step 300/1500  loss 0.412  lr 1.0e-03  812 img/s  ETA 1m12s  MFU 41.2%`.

    On a terminal the line is rewritten in place; elsewhere (a log file) each update is a line of its own. The
    rate is steps over time between updates, without the time spent in `paused()`; the first interval, which
    holds compilation, is left out of the average as soon as there is a second one.

    Args:
      total: number of the last step.
      batch: samples per step, for the rate in samples per second.
      unit: what a sample is called.
      start: the step already reached (a resumed run).
      stream: text file to write to, by default stderr.
      active: False on all processes but the first: prints nothing.
      clock: seconds, monotonic (a test gives its own).
    """

    def __init__(
        self,
        total: int,
        *,
        batch: int = 1,
        unit: str = "img",
        start: int = 0,
        stream: Any = None,
        active: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.batch, self.unit = total, batch, unit
        self.rate: float | None = None  # steps per second
        self._stream = sys.stderr if stream is None else stream
        self._live = active and self._stream.isatty()
        self._active, self._clock = active, clock
        self._step, self._time, self._intervals = start, clock(), 0
        self._width = 0

    def update(self, step: int, metrics: Mapping[str, float | int], mfu: float | None = None) -> str:
        """Show the step's line and return it.

        Args:
          metrics: shown in this order; `lr` as a power of ten.
          mfu: model FLOPs utilisation, 0 to 1.
        """
        self._measure(step)
        parts = [
            f"step {step}/{self.total}",
            *(f"{name} {metric_text(name, value)}" for name, value in metrics.items()),
        ]
        if self.rate is not None:
            left = max(self.total - step, 0)
            parts += [f"{si(self.rate * self.batch)} {self.unit}/s", f"ETA {duration(left / self.rate)}"]
        if mfu is not None:
            parts.append(f"MFU {100 * mfu:.1f}%")
        line = "  ".join(parts)
        if self._active:
            self._show(line)
        return line

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here (an evaluation, a checkpoint) does not count as training."""
        begun = self._clock()
        try:
            yield
        finally:
            self._time += self._clock() - begun

    def say(self, message: str) -> None:
        """Print a message on a line of its own."""
        if self._active:
            self.close()
            self._stream.write(message + "\n")
            self._stream.flush()

    def close(self) -> None:
        """End the live line, so that what others print starts on a fresh one."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def _measure(self, step: int) -> None:
        now = self._clock()
        steps, seconds = step - self._step, now - self._time
        if steps <= 0 or seconds <= 0:
            return
        latest = steps / seconds
        if self.rate is None or self._intervals == 1:
            self.rate = latest
        else:
            old = max(0.0, 1 - seconds / _SMOOTHING_S)
            self.rate = old * self.rate + (1 - old) * latest
        self._step, self._time, self._intervals = step, now, self._intervals + 1

    def _show(self, line: str) -> None:
        if self._live:
            self._stream.write("\r" + line.ljust(self._width))  # spaces wipe the rest of a longer line before
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def metric_text(name: str, value: float | int) -> str:
    """A metric's value in few characters: four digits, learning rates as 1.0e-03."""
    if name == "lr":
        return f"{value:.1e}"
    return f"{value:.4g}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"


def duration(seconds: float | int) -> str:
    """42s, 1m12s, 3h05m, 2d07h; "?" if it is not finite."""
    if not 0 <= seconds < float("inf"):
        return "?"
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 60:
        return f"{whole}s"
    if hours == 0:
        return f"{minutes}m{whole % 60:02d}s"
    if days == 0:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{days}d{hours % 24:02d}h"


def si(value: float | int) -> str:
    """Three digits and a prefix: 0.81, 8.12, 812, 8.12k, 1.5M."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"
