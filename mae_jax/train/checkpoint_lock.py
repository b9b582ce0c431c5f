"""One writer per workdir: a lock on WORKDIR/checkpoints/.lock that the system lets go of when its process ends,
however it ends.
"""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path

from mae_jax.core.errors import UserError

WAIT = 60.0  # seconds: a run that is being stopped lets go in this time


class Lock:
    """Held from `take` to `release`. A file system without locks gives none, and the run goes on without."""

    def __init__(self, directory: Path):
        self.path = directory / ".lock"
        self._file: int | None = None

    def take(self, wait: float = WAIT) -> None:
        """Take it, waiting up to `wait` seconds.

        Raises:
          UserError: another process holds it.
        """
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return  # a full or read-only disk: nobody is kept out, as before there were locks
        until, told = time.monotonic() + wait, False
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = self.holder()
                if time.monotonic() >= until:
                    os.close(self._file)
                    self._file = None
                    raise UserError(
                        f"another process ({holder}) is writing checkpoints to {self.path.parent}. Two at once would "
                        f"destroy each other's: stop that one, or take another workdir."
                    ) from None
                if not told:
                    print(f"mae_jax: waiting for {holder} to let go of {self.path.parent}", file=sys.stderr, flush=True)
                    told = True
                time.sleep(0.2)
            except OSError:
                return  # no locks here
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds without its label

    def holder(self) -> str:
        """Who holds it, as far as it says."""
        try:
            return self.path.read_text(errors="replace").strip()[:200] or "unnamed"
        except OSError:
            return "unnamed"

    def release(self) -> None:
        """Let go; nothing where it is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
