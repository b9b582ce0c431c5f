"""A step that takes far too long: every thread's stack is written, and past a limit the process ends."""

import contextlib
import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from mae_jax.core import exits
from mae_jax.train.hosts import Clock

KNOWN = 3  # steps that must have been measured
WINDOW = 101  # steps whose median is the usual time


class Watchdog:
    """A thread that looks at the time since the last `beat`, from `start` to `close`.

    What is measured is the time between two boundaries of steps: data, compute and collectives alike. Left out are
    intervals in which a step compiled (`compiles`) and what happens in `paused`. The time in which the process was
    stopped itself (Ctrl-Z, a laptop asleep) does not count.

    Args:
      factor: times the median after which a step hangs; 0: nothing is watched.
      floor: seconds that are never a hang.
      limit: seconds of hanging after which the process ends with `exits.RESTART`; 0: never.
      folder: where the stacks are written, WORKDIR/guard.
      process: number of this process.
      leave: how it ends: (status, why).
    """

    def __init__(
        self, factor: float, floor: float, limit: float, folder: Path, process: int = 0,
        leave: Callable[[int, str], object] | None = None,
    ):  # fmt: skip
        self.factor, self.floor, self.limit = factor, floor, limit
        self.folder, self.process = folder, process
        self._leave = leave or _exit
        self._took: deque[float] = deque(maxlen=WINDOW)
        self._clock, self._begun = Clock(), time.monotonic()
        self._counts = False  # whether the interval that is running is a step like others
        self._watched = True  # False: a pause
        self._step, self._said = 0, False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mae_jax watchdog", daemon=True)

    def start(self) -> None:
        """The first step begins."""
        if self.factor:
            self._thread.start()

    def close(self) -> None:
        """The last step is done."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def beat(self, step: int) -> None:
        """A boundary: `step` steps are done."""
        now = time.monotonic()
        if self._counts:
            self._took.append(now - self._begun)
        self._step, self._said = step, False
        self._begun, self._counts = now, True
        self._clock.reset()
        self._watched = True

    def compiles(self) -> None:
        """The step that begins has to be compiled first: it may take its time, and the next one waits for it."""
        self._counts = self._watched = False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A checkpoint, a probe, a picture."""
        self._watched = self._counts = False
        try:
            yield
        finally:
            self._clock.reset()
            self._watched = True

    @property
    def patience(self) -> float | None:
        """Seconds after which a step hangs; None: not known yet."""
        if len(self._took) < KNOWN:
            return None
        return max(self.factor * statistics.median(tuple(self._took)), self.floor)

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, max(self.floor, 0.1) / 4)):
            patience = self.patience
            if not self._watched or patience is None:
                continue
            waited = self._clock.seconds()
            if waited > patience and not self._said:
                self._said = True
                self._write(waited)
            if self.limit and waited > patience + self.limit:
                self._write(waited)
                self._leave(exits.RESTART, f"the step after {self._step} has not ended for {waited:.0f} s: it hangs")

    def _write(self, waited: float) -> None:
        usual = statistics.median(tuple(self._took))
        title = (
            f"mae_jax: the step after {self._step} has taken {waited:.1f} s so far, others {usual:.3g} s. Where every "
            f"thread of process {self.process} stands:"
        )
        path = self.folder / f"hang_step_{self._step}{f'.p{self.process}' if self.process else ''}.txt"
        with contextlib.suppress(OSError, ValueError):  # a full disk does not keep the process from ending
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "a") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {title}\n")
                file.flush()
                faulthandler.dump_traceback(file)
        os.write(2, f"\n{title}\n".encode())
        with contextlib.suppress(Exception):  # sys.stderr may be a notebook's, which has no descriptor
            faulthandler.dump_traceback(2 if sys.__stderr__ is None else sys.__stderr__)
        os.write(2, f"(also in {path})\n".encode())


def _exit(status: int, why: str) -> None:
    os.write(2, f"\nmae_jax: {why}. The same command resumes from the last checkpoint. (status {status})\n".encode())
    os._exit(status)
