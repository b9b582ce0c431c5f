"""What the processes of one run tell each other besides their collectives: stop here, I failed, I am still there.

It goes through the key-value store of jax's coordination service, by a thread of its own, so that it works while the
main thread is inside a collective that will never end. Left alone, jax ends the survivors of a lost process by an abort
and a stack trace, or lets them wait in a collective; here each says who is lost and leaves with a status by which a
launcher knows that the same command resumes. With one process nothing of this runs.
"""

import contextlib
import ctypes
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from mae_jax.core import exits
from mae_jax.core.errors import UserError

POLL = 0.25  # seconds between looks at what others say, at most
BEAT = 2.0  # seconds between two signs of life, at most: less than Clock.STEP
GRACE = 3.0  # seconds in which a process that says why it ends is heard, and in which others may say it themselves

# What collectives and the coordination service say where another process is gone (gloo, NCCL, gRPC).
_LOST = re.compile(
    r"gloo|nccl|connection (reset|closed|refused)|broken pipe|socket closed|coordination service|unavailable|"
    r"deadline.exceeded|barrier|heartbeat|remote (error|process)|peer",
    re.IGNORECASE,
)
_RUNS = itertools.count()  # runs of this process, one after the other: each has keys of its own


def store() -> Any:
    """The key-value store of jax's coordination service; only where there are several processes."""
    from jax._src import distributed  # nothing public gives it

    return distributed.global_state.client


class Hosts:
    """Context manager of one run; all its processes enter it.

    Args:
      heartbeat: seconds after which a process that is not heard of counts as lost.
      requested: whether this process was asked to stop (a signal).
    """

    def __init__(self, heartbeat: float, requested: Callable[[], bool]):
        self.count, self.index = jax.process_count(), jax.process_index()
        self.heartbeat, self.requested = heartbeat, requested
        self._poll = max(POLL, self.count / 1000)  # the coordinator answers all of them
        self._client: Any = None
        self._lock = threading.Lock()
        self._next = 0  # the boundary between steps that the main thread reaches next
        self._mine: int | None = None  # that boundary when this process heard that the run is to stop
        self._target: int | None = None  # where all of them stop
        self._agreed = threading.Event()
        self._over = threading.Event()
        self._ending: str | None = None  # why this process is about to end
        self._answered = Clock()  # since when the coordinator has not answered

    def __enter__(self) -> "Hosts":
        if self.count > 1:
            self._client = store()
            self._prefix = f"mae_jax/{next(_RUNS)}"
            self._abort = _Abort(f"mae_jax: {self._who(self.index)} ends with it (status {exits.RESTART}).")
            self._threads = [
                threading.Thread(target=work, name=f"mae_jax {name}", daemon=True)
                for name, work in (("hosts", self._talk), ("coordinator", self._watch_coordinator))
            ]
            self._say_alive(0)
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.count == 1:
            return
        if error is not None:
            self.tell(error)
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=self.heartbeat)
        with contextlib.suppress(Exception):
            self._put(f"alive/{self.index}", "done")
        self._abort.close()

    # The main thread -----------------------------------------------------------------------------------------------

    def stops_at(self, step: int) -> bool:
        """Whether all processes stop after `step` steps, since one of them was asked to. Called after every step.

        No collective: each process says which boundary it will reach next when it hears of the request, and the last of
        these is where all stop. Until that is known nobody passes a boundary, and nobody waits in front of a step that
        others need to finish theirs.
        """
        if self.count == 1:
            return self.requested()
        with self._lock:
            self._next = step + 1
            asked = self._mine is not None
        if not asked:
            return False
        if not self._agreed.wait(self.heartbeat):
            self.leave(exits.RESTART, "not all processes answered the request to stop")
        return self._target is not None and step >= self._target

    def tell(self, error: BaseException) -> None:
        """With several processes: end this one because of `error`, and tell the others, who would wait for it."""
        if self.count == 1:
            return
        text = " ".join(str(error).split())[:500] or type(error).__name__
        if not isinstance(error, UserError) and _LOST.search(text):
            self._ending = text
            time.sleep(2 * self._poll + 0.5)  # who failed may have said why: then _talk ends this process with that
            self.leave(exits.RESTART, f"another process of this run ended, or cannot be reached: {text}")
        status = exits.BAD_INPUT if isinstance(error, UserError) else exits.FAILED
        if not isinstance(error, UserError):
            traceback.print_exception(error)
        self.leave(status, text)

    def leave(self, status: int, why: str) -> NoReturn:
        """End this process at once, without jax's own farewell, which waits for processes that may be gone."""
        self._ending = why
        with contextlib.suppress(Exception):
            self._put(f"word/failed/{self.index}", f"{status} {self._who(self.index)}: {why}")
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        _say(f"mae_jax: {why}.{_resumes(status)} ({self._who(self.index)}, status {status})")
        if self.index == 0:
            time.sleep(GRACE)  # the store is in this process: the others read there why it ends
        os._exit(status)

    # The threads ----------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Says that this process is there, and hears what others say."""
        beats, last = 0, 0.0
        seen: dict[str, tuple[str, Clock]] = {}
        while not self._over.wait(self._poll):
            try:
                if time.monotonic() - last > min(self.heartbeat / 8, BEAT):
                    last, beats = time.monotonic(), beats + 1
                    self._say_alive(beats)
                    if self.index == 0:
                        self._look_for_lost(seen)
                if self.requested() and self._mine is None:
                    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was first
                        self._client.key_value_set(f"{self._prefix}/word/stop", self._who(self.index))
                words = dict(self._get("word/"))
                self._answered.reset()
            except jax.errors.JaxRuntimeError:
                continue  # _watch_coordinator sees to it
            self._hear(words)

    def _hear(self, words: dict[str, str]) -> None:
        if "stop" in words and self._mine is None:
            with self._lock:
                self._mine = self._next
            self._put(f"word/at/{self.index}", str(self._mine))
        at = [int(text) for name, text in words.items() if name.startswith("at/")]
        if len(at) == self.count and self._target is None:
            self._target = max(at)
            self._agreed.set()
        for name, text in sorted(words.items()):
            if name.startswith("lost/"):
                _say(f"mae_jax: lost {text}: not heard of for {self.heartbeat:g} s.{_resumes(exits.RESTART)}")
                self._end(exits.RESTART)
            if name.startswith("failed/") and int(name.removeprefix("failed/")) != self.index:
                status, _, why = text.partition(" ")
                if self._ending is None:
                    self._over.wait(GRACE)  # it may be about to say the same itself
                _say(f"mae_jax: {why}. This process ends with it.{_resumes(int(status))}")
                self._end(int(status))

    def _end(self, status: int) -> None:
        if not self._over.is_set():
            if self.index == 0:
                time.sleep(GRACE)
            os._exit(status)

    def _look_for_lost(self, seen: dict[str, tuple[str, "Clock"]]) -> None:
        """Process 0: who has said nothing new for `heartbeat` seconds?"""
        for name, text in self._get("alive/"):
            if name not in seen or seen[name][0] != text or text == "done":
                seen[name] = text, Clock()
            elif seen[name][1].seconds() > self.heartbeat:
                self._put(f"word/lost/{name}", text.partition(" ")[2])
        self._answered.reset()

    def _watch_coordinator(self) -> None:
        """Ends this process where the store does not answer: its calls hang, or fail at once."""
        while not self._over.wait(self._poll):
            if self._answered.seconds() > self.heartbeat and self.index != 0:
                _say(f"mae_jax: lost process 0, which coordinates the others: no answer for {self.heartbeat:g} s."
                     f"{_resumes(exits.RESTART)}")  # fmt: skip
                self._end(exits.RESTART)

    def _who(self, index: int) -> str:
        return f"process {index} (host {socket.gethostname()}, pid {os.getpid()})"

    def _say_alive(self, beats: int) -> None:
        self._put(f"alive/{self.index}", f"{beats} {self._who(self.index)}")

    def _put(self, name: str, text: str) -> None:
        self._client.key_value_set(f"{self._prefix}/{name}", text, allow_overwrite=True)

    def _get(self, folder: str) -> list[tuple[str, str]]:
        """[(name below the folder, text)]."""
        root = f"{self._prefix}/{folder}"
        return [(key[len(root) :], text) for key, text in self._client.key_value_dir_get(root)]


class Clock:
    """Seconds since `reset` in which this process ran: one that was stopped, or a laptop asleep, did not wait."""

    STEP = 3.0  # seconds between two looks that count at most

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._seconds, self._last = 0.0, time.monotonic()

    def seconds(self) -> float:
        now = time.monotonic()
        self._seconds, self._last = self._seconds + min(now - self._last, self.STEP), now
        return self._seconds


class _Abort:
    """Until `close`: an abort, by which jax ends a process whose coordinator is gone, ends it with RESTART instead."""

    def __init__(self, text: str):
        self._libc = ctypes.CDLL(None)
        self._libc.signal.restype, self._libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        note = (f"mae_jax: jax gave this run up, since another of its processes is lost or the coordinator is gone "
                f"(see above).{_resumes(exits.RESTART)}\n{text}\n").encode()  # fmt: skip

        def end(number: int) -> None:
            os.write(2, note)
            os._exit(exits.RESTART)

        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)  # held: C knows its address only
        self._old = self._libc.signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))

    def close(self) -> None:
        self._libc.signal(signal.SIGABRT, self._old)


def _resumes(status: int) -> str:
    return " The same command resumes from the last checkpoint." if status == exits.RESTART else ""


def _say(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())  # whatever the main thread holds
