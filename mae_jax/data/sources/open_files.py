"""Files that a process keeps open, the ones used last up to a number."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any


class Descriptor:
    """A file descriptor that is closed with the object, so that a thread that still reads from it may finish."""

    def __init__(self, path: Path):
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self, close: Any = os.close) -> None:
        if hasattr(self, "number"):
            close(self.number)


class OpenFiles:
    """Opens what is asked for and gives up the file used longest ago. Empty when unpickled: a process opens its own."""

    def __init__(self, limit: int):
        self.limit = limit
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: Hashable, open_file: Callable[[], Any]) -> Any:
        """The file of `key`, by `open_file` where it is not open."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = open_file()
                if len(self._kept) > self.limit:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self):
        return OpenFiles, (self.limit,)
