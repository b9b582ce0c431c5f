"""Worker processes: started by grain, watched by us."""

import multiprocessing
import os
import re
import signal
import threading
import time
from functools import partial
from typing import Any

PARENT_WATCH = 0.5  # seconds between a worker's looks at its parent


def in_workers(dataset: Any, workers: int, ahead: int) -> Any:
    """An iterator over a grain.MapDataset computed in `workers` processes, each holding `ahead` elements ready."""
    import grain  # here, since `prepare` starts processes that do without it

    _mark_flags_parsed()
    options = grain.MultiprocessingOptions(workers, ahead)
    one = dataset.to_iter_dataset(grain.ReadOptions(1, 1))
    return iter(one.mp_prefetch(options, worker_init_fn=partial(_worker, os.getpid())))


class WorkerEnded(Exception):
    """A worker process is gone. `killed`: by a signal, so that a new one may do better."""

    def __init__(self, message: str, killed: bool):
        super().__init__(message)
        self.killed = killed


def death(error: BaseException, children: list) -> WorkerEnded | None:
    """What `error` says of the end of a worker; None for any other error.

    Args:
        children: the processes that ran (multiprocessing.Process).
    """
    found = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
    if not isinstance(error, RuntimeError) or not found:
        return None
    code = int(found[1])
    dead = [str(p.pid) for p in children if p.exitcode == code]
    who = f"a data worker (process {', '.join(dead)})" if dead else "a data worker"
    if code >= 0:
        return WorkerEnded(f"{who} ended with exit status {code}", killed=False)
    try:
        how = signal.Signals(-code).name
    except ValueError:
        how = f"signal {-code}"
    why = ", as the system does when memory runs out" if how == "SIGKILL" else ""
    return WorkerEnded(f"{who} was killed by {how}{why}", killed=True)


def running() -> list:
    """The worker processes of this process."""
    return [p for p in multiprocessing.active_children() if p.name.startswith("grain")]


def _mark_flags_parsed() -> None:
    """grain reads absl flags in its workers, which raises in a program that has not parsed any."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _worker(parent: int, index: int, count: int) -> None:
    """What grain runs first in each worker."""
    end_with(parent)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with(parent: int) -> None:
    """A worker ends when its parent does, however that ended: else it would live on and hold the terminal's pipe.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started the process ends, and grain starts from threads.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
