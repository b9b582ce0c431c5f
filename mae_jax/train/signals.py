"""Being asked to stop: a scheduler's SIGTERM or the user's Ctrl-C becomes a flag that the loop reads between
steps.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np


class Preemption:
    """Context manager under which SIGTERM and the first SIGINT only set `requested`; the old handlers return
    at its end.

    A second SIGINT ends the process at once, by the signal itself, so that a stuck run can be killed from the
    keyboard. Python installs handlers from the main thread only: in another thread (a notebook's executor, a
    test) `active` is False, nothing is caught and signals do what they did before.

        with Preemption() as preemption:
            for step in steps:
                ...
                if agree(preemption.requested):
                    save(); break
    """

    def __init__(self) -> None:
        self.requested = False
        self.active = False
        self.received: str | None = None  # the signal's name, for the message that says why the run ends
        self._interrupted = False
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        self.active = threading.current_thread() is threading.main_thread()
        if self.active:
            self._old = {number: signal.signal(number, self._caught) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(
                number, handler if handler is not None else signal.SIG_DFL
            )  # None: set by C code, not ours to call
        self._old = {}
        self.active = False

    def _caught(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self._interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
            return
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.received = name
        self.requested = True
        note = "stopping after this step" + ("; press Ctrl-C again to stop at once" if name == "SIGINT" else "")
        os.write(
            2, f"\n{name} received: {note}\n".encode()
        )  # print() is not safe inside a handler: it may hold its own lock


def agree(flag: bool) -> bool:
    """Whether any process raised its flag. Every process must call it at the same step; alone, it is the flag
    itself.

    A scheduler signals hosts at different moments; a host that left the loop alone would leave the others in
    a collective.
    """
    if jax.process_count() == 1:
        return bool(flag)
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
