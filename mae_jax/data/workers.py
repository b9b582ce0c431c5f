"""Worker processes that compute parts of batches, and what is said when one of them ends.

Ours and not grain's mp_prefetch: there a worker shares locks and queues with its parent, and one that is killed while
it holds a lock, or in the middle of a message, leaves the parent waiting for ever. Here each worker has a socket of its
own, whose other end nobody else holds: whenever it ends, its parent reads the end of the stream. Arrays pass through
memory that only the parent hands out; its file has no name, so that nothing is left over however the processes end.
"""

import contextlib
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import reduction, util
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

PARENT_WATCH = 0.5  # seconds between a worker's looks at its parent
PATIENCE = 5.0  # seconds that a worker has to end when it is no longer needed
ALIGN = 64  # bytes: where arrays may start

Part = dict[str, Any]


class WorkerEnded(Exception):
    """A worker process is gone. `killed`: by a signal, so that a new one may do better."""

    def __init__(self, message: str, killed: bool):
        super().__init__(message)
        self.killed = killed


class Workers:
    """An iterator over compute(first), compute(first + 1), ... compute(stop - 1), computed ahead in processes.

    Args:
      compute: number -> dict of arrays and other values; travels by cloudpickle.
      ahead: how many results each worker may hold ready.
      size: bytes of the arrays of a result; larger ones work, but travel more slowly.
    Raises: what `compute` raises, at its place; WorkerEnded.

    Attributes:
      processes: the workers, by multiprocessing.Process.
    """

    def __init__(self, compute: Callable[[int], Part], first: int, stop: int, workers: int, ahead: int, size: int):
        import cloudpickle  # takes functions of notebooks and scripts along

        self._first, self._next, self._stop = first, first, stop
        self._members: list[_Member] = []
        self._end = util.Finalize(self, _end, (self._members,), exitpriority=10)  # before daemons are waited for
        payload = cloudpickle.dumps(compute)
        for i in range(workers):
            self._members.append(_Member(payload, ahead, -(-size // ALIGN) * ALIGN + 16 * ALIGN))
            for slot in range(ahead):
                self._ask(first + i + slot * workers, slot)

    @property
    def processes(self) -> list:
        return [member.process for member in self._members]

    def __iter__(self) -> "Workers":
        return self

    def __next__(self) -> Part:
        if self._next >= self._stop:
            raise StopIteration
        member = self._member(self._next)
        slot, answer = member.take()
        if isinstance(answer, Exception):
            self._stop = self._next  # the sequence ends with its first error
            raise answer
        self._ask(self._next + len(self._members) * member.ahead, slot)
        self._next += 1
        return answer

    def _member(self, number: int) -> "_Member":
        return self._members[(number - self._first) % len(self._members)]

    def _ask(self, number: int, slot: int) -> None:
        if number < self._stop:
            self._member(number).ask(number, slot)

    def close(self) -> None:
        """End the processes."""
        self._end()


class _Placed(NamedTuple):
    """Where an array lies in the memory that is shared."""

    start: int
    shape: tuple[int, ...]
    dtype: str


class _Member:
    """One worker, seen from its parent."""

    def __init__(self, payload: bytes, ahead: int, size: int):
        self.ahead, self._size = ahead, size
        spawn = multiprocessing.get_context("spawn")
        self._socket, theirs = spawn.Pipe()
        file = _unnamed_file(ahead * size)
        self._memory = mmap.mmap(file.fileno(), 0) if file else None
        self.process = spawn.Process(
            target=_serve, args=(theirs, _Inherited(file.fileno()) if file else None, size, payload, os.getpid()),
            daemon=True, name="mae_jax-data-worker",
        )  # fmt: skip
        self.process.start()
        theirs.close()  # so that the end of the worker is the end of the stream
        if file:
            file.close()

    def ask(self, number: int, slot: int) -> None:
        with contextlib.suppress(OSError):  # it has ended: `take` says so when its turn comes
            self._socket.send((number, slot))

    def take(self) -> tuple[int, Any]:
        """(slot, the oldest result asked for, or its error). Raises WorkerEnded."""
        try:
            slot, answer = self._socket.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, dict):
            answer = {name: self._copy(x) if isinstance(x, _Placed) else x for name, x in answer.items()}
        return slot, answer

    def _copy(self, placed: _Placed) -> np.ndarray:
        assert self._memory is not None
        count = int(np.prod(placed.shape))
        return np.frombuffer(self._memory, placed.dtype, count, placed.start).reshape(placed.shape).copy()

    def _ended(self) -> WorkerEnded:
        self.process.join(PATIENCE)
        who, code = f"a data worker (process {self.process.pid})", self.process.exitcode
        if code is None or code >= 0:
            return WorkerEnded(f"{who} ended with exit status {code}", killed=False)
        try:
            how = signal.Signals(-code).name
        except ValueError:
            how = f"signal {-code}"
        why = ", as the system does when memory runs out" if how == "SIGKILL" else ""
        return WorkerEnded(f"{who} was killed by {how}{why}", killed=True)

    def hang_up(self) -> None:
        self._socket.close()

    def wait(self, until: float) -> None:
        self.process.join(max(0.0, until - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _end(members: list[_Member]) -> None:
    for member in members:
        member.hang_up()
    until = time.monotonic() + PATIENCE
    for member in members:
        member.wait(until)


class _Inherited:
    """A file descriptor that a process takes over when it is started."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self) -> tuple:
        return _taken_over, (reduction.DupFd(self.number),)


def _taken_over(duplicate: Any) -> int:
    return duplicate.detach()


def _unnamed_file(size: int) -> Any | None:
    """A file of `size` bytes in memory, or else on disk; None where neither has room (a small /dev/shm, say)."""
    for folder in ("/dev/shm", None):
        try:
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError:
            continue
        try:
            # Taken now: a file that grows later ends whoever writes to it, by SIGBUS.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return file
        except OSError:
            file.close()
    return None


def _serve(socket: Connection, memory: int | None, size: int, payload: bytes, parent: int) -> None:
    """What a worker does: answer until its parent hangs up."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a whole group may be signalled; the parent decides what ends when
        signal.signal(number, signal.SIG_IGN)
    end_with(parent)
    room = mmap.mmap(memory, 0) if memory is not None else None
    compute: Any = None
    while True:
        try:
            asked, slot = socket.recv()
        except (EOFError, OSError):
            return
        try:
            compute = pickle.loads(payload) if compute is None else compute
            answer: Any = _placed(compute(asked), room, slot * size, size)
        except Exception as error:
            answer = _sendable(error)
        try:
            socket.send((slot, answer))
        except OSError:
            return


def _placed(part: Part, room: mmap.mmap | None, start: int, size: int) -> Part:
    """The part with its arrays put into `size` bytes of shared memory, as far as they have room there."""
    out, end = {}, start + size
    for name, x in part.items():
        if room is not None and isinstance(x, np.ndarray) and not x.dtype.hasobject and start + x.nbytes <= end:
            np.frombuffer(room, x.dtype, x.size, start).reshape(x.shape)[...] = x
            out[name] = _Placed(start, x.shape, x.dtype.str)
            start += -(-x.nbytes // ALIGN) * ALIGN
        else:
            out[name] = x
    return out


def _sendable(error: Exception) -> Exception:
    """The error with its stack trace as a note, or its text where it cannot travel."""
    error.add_note("In a data worker:\n" + traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError("\n".join([f"{type(error).__name__}: {error}", *error.__notes__]))


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with(parent: int) -> None:
    """A worker ends when its parent does, however that ended: else it would live on and hold the terminal's pipe.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started the process ends.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
