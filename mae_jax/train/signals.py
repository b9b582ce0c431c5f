"""Being asked to stop: SIGTERM, SIGUSR1 or Ctrl-C becomes a flag that the loop reads between steps; the second ends it.

What arrives is read by a thread from a pipe that the interpreter's C code writes to, so that a second signal works also
while the main thread is inside a compilation or a collective, where Python's own handlers have to wait.
"""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np

_CLOSE = 0  # written to the pipe to end its reader; no signal has this number


class Preemption:
    """Context manager under which the first SIGTERM, SIGINT or SIGUSR1 only sets `requested`; at its end the old
    handlers return.

    SIGUSR1 is what Slurm and others send ahead of a limit; it is left alone where the program has its own use for it. A
    second signal of any of these kinds ends the process at once, with 128 + its number (143, `exits.INTERRUPTED`, for
    SIGUSR1 too). These handlers stand before those that jax.distributed puts up, which would swallow SIGTERM. Python
    installs handlers from the main thread only: in another thread (a notebook's executor, a test) `active` is False,
    nothing is caught and signals do what they did before.

        with Preemption() as preemption:
            for step in steps:
                ...
                if preemption.requested:
                    save(); break
    """

    def __init__(self) -> None:
        self.requested = False
        self.active = False
        self.received: str | None = None  # the signal's name, for the message that says why the run ends
        self._handled = 0
        self._numbers: list[signal.Signals] = []
        self._old: dict[signal.Signals, Any] = {}
        self._pipe = (-1, -1)
        self._outer = -1  # the wakeup descriptor of somebody else (asyncio's in a notebook), who hears of signals too

    def __enter__(self) -> "Preemption":
        self.active = threading.current_thread() is threading.main_thread()
        if self.active:
            self._numbers = [signal.SIGTERM, signal.SIGINT]
            if signal.getsignal(signal.SIGUSR1) in (signal.SIG_DFL, None):
                self._numbers.append(signal.SIGUSR1)
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._reader = threading.Thread(target=self._listen, name="mae_jax signals", daemon=True)
            self._reader.start()
            self._outer = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._old = {number: signal.signal(number, self._caught) for number in self._numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.active:
            return
        for number, handler in self._old.items():
            signal.signal(
                number, handler if handler is not None else signal.SIG_DFL
            )  # None: set by C code, not ours to call
        signal.set_wakeup_fd(self._outer)
        os.write(self._pipe[1], bytes([_CLOSE]))
        self._reader.join()
        for end in self._pipe:
            os.close(end)
        self._old = {}
        self.active = False

    def _listen(self) -> None:
        """Reads what the C handler writes, whatever the main thread is doing."""
        arrived = 0
        while True:
            (number,) = os.read(self._pipe[0], 1)
            if number == _CLOSE:
                return
            if self._outer >= 0:
                with contextlib.suppress(OSError):
                    os.write(self._outer, bytes([number]))
            if number not in self._numbers:
                continue
            arrived += 1
            if arrived > 1:
                _end(number)
            self._request(number)
            again = "press Ctrl-C again" if number == signal.SIGINT else "signal again"
            note = f"\n{signal.Signals(number).name} received: stopping after this step; {again} to stop at once\n"
            os.write(2, note.encode())  # print() may wait for a lock that the interrupted code holds

    def _caught(self, number: int, frame: FrameType | None) -> None:
        """The same in the main thread, when it comes to it: for code that looks right after the signal."""
        self._handled += 1
        if self._handled > 1:
            _end(number)
        self._request(number)

    def _request(self, number: int) -> None:
        self.received = self.received or signal.Signals(number).name
        self.requested = True


def _end(number: int) -> None:
    os.write(2, f"\n{signal.Signals(number).name} received again: ending at once\n".encode())
    os._exit(128 + (number if number == signal.SIGINT else signal.SIGTERM))


def agree(flag: bool) -> bool:
    """Whether any process raised its flag. Every process must call it at the same step; alone, it is the flag
    itself.
    """
    if jax.process_count() == 1:
        return bool(flag)
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
