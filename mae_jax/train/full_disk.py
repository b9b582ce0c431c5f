"""A disk without room: what a run can do without is skipped with a warning, and training goes on."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def no_room(error: OSError) -> bool:
    """Whether a write failed for want of room (a full disk, a quota, a limit on the size of files)."""
    return error.errno in _NO_ROOM


def say(text: str) -> None:
    """Print to stderr, which may itself be a file on the full disk."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class _Patient:
    """A text stream whose writes may find no room: what does not is lost, and no error."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or lose."""
        try:
            return self._stream.write(text)
        except OSError as error:
            if not no_room(error):
                raise
            return len(text)

    def flush(self) -> None:
        """Flush, or lose."""
        try:
            self._stream.flush()
        except OSError as error:
            if not no_room(error):
                raise


@contextlib.contextmanager
def patient_streams() -> Iterator[None]:
    """Inside, what is printed cannot end a run because the file that it goes to has no room."""
    usual = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Patient(stream) for stream in usual)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = usual


@contextlib.contextmanager
def skipped(what: str) -> Iterator[None]:
    """Run the body; where the disk has no room, say that `what` was skipped and go on."""
    try:
        yield
    except OSError as error:
        if not no_room(error):
            raise
        say(f"mae_jax: {what} was skipped: {error.strerror}. Training goes on.")


def replace_text(path: Path, text: str) -> None:
    """Write a text file all at once or not at all; nothing is written where it says the same already."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return
    beside = path.with_name(f"{path.name}.tmp")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


class Growing:
    """A file that only grows. What finds no room is held and written, in its order, as soon as there is some."""

    def __init__(self, path: Path):
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._held = b""
        self._warned = False

    def write(self, content: bytes) -> None:
        """Append; on its way to the disk after the next flush."""
        self._held += content

    def flush(self) -> None:
        """Write what is held, as far as there is room."""
        while self._held:
            try:
                written = os.write(self._file, self._held)
            except OSError as error:
                if not no_room(error):
                    raise
                if not self._warned:
                    say(
                        f"mae_jax: WARNING: no room to write {self.path}; what belongs there is held in memory until "
                        f"there is some. Training goes on."
                    )
                self._warned = True
                return
            self._held = self._held[written:]
        self._warned = False

    def close(self) -> None:
        """Write what can be written, say what cannot, and close."""
        self.flush()
        if self._held:
            say(f"mae_jax: the last {len(self._held)} bytes of {self.path} found no room.")
        os.close(self._file)
