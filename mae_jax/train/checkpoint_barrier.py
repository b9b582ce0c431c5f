"""Where the processes of a run wait for each other's parts of a checkpoint, until one says that its part failed.

Orbax alone waits 20 minutes for a process that could not write, and training with it.
"""

import collections
import itertools
import sys
import threading
import time

import jax

from mae_jax.train.checkpoint_meta import first_line
from mae_jax.train.hosts import POLL, store

_OPENED = itertools.count()  # the processes open their checkpoints in the same order, so equal numbers are the same


class Barrier:
    """A `barrier_sync_fn` of orbax's AsyncOptions. Its threads call it; the main thread calls `begin` and `failed`."""

    def __init__(self) -> None:
        self._number, self._save = next(_OPENED), 0
        self._saver = 0  # the thread that calls save(), perhaps while it handles an exception of its own
        self._calls: collections.Counter[str] = collections.Counter()

    def begin(self) -> None:
        """A new save. Every process, after it knows that all have ended the one before."""
        if jax.process_count() > 1 and jax.process_index() == 0:
            store().key_value_delete(self._prefix)  # with all below it
        self._save += 1
        self._saver = threading.get_ident()
        self._calls.clear()

    @property
    def _prefix(self) -> str:
        return f"mae_jax/checkpoint/{self._number}/{self._save}"

    def failed(self, error: BaseException) -> None:
        """Let the processes that wait in this save, or will, end their wait with an error."""
        if jax.process_count() > 1:
            name = f"{self._prefix}/failed/{jax.process_index()}"
            store().key_value_set(name, f"process {jax.process_index()}: {first_line(error)}", allow_overwrite=True)

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Return when every process has called it as often with this key; at once where an exception is on its way.

        Raises:
          RuntimeError: another process failed, or the time is over.
        """
        error = sys.exc_info()[1]  # orbax tidies up behind a failed save, in a finally
        if error is not None and threading.get_ident() != self._saver:
            self.failed(error)
            return
        self._calls[key] += 1
        client, count = store(), jax.process_count()
        here = f"{self._prefix}/{key}/{self._calls[key]}"
        until = time.monotonic() + timeout_ms / 1000
        client.key_value_set(f"{here}/here/{jax.process_index()}", "")
        # Process 0 counts, and the others look at what it found: n small questions at a time, not n^2.
        pause = count / 10_000  # save() itself waits here: soon again at first, then seldom
        while True:
            if found := client.key_value_dir_get(f"{self._prefix}/failed/"):
                raise RuntimeError(found[0][1])
            if jax.process_index():
                if client.key_value_dir_get(f"{here}/all/"):
                    return
            elif len(client.key_value_dir_get(f"{here}/here/")) == count:
                client.key_value_set(f"{here}/all/0", "")
                return
            if time.monotonic() > until:
                raise RuntimeError(f"not all {count} processes wrote their parts in {timeout_ms / 1000:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, max(POLL, count / 1000))
