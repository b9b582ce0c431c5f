"""One line on stderr: how many records are written, how fast, and when the last one will be."""

import sys
import time

EVERY = 10.0  # seconds between lines where they are no terminal's


class Progress:
    """Prints `1200/50000 images  812/s  ETA 1m12s`; on a terminal in place, elsewhere a line now and then."""

    def __init__(self, total: int):
        self.total, self.skipped = total, 0
        self.begun = self.said = time.monotonic()
        self.live, self.width = sys.stderr.isatty(), 0

    def skip(self, records: int) -> None:
        """So many records were written by a run before."""
        self.skipped += records

    def __call__(self, written: int) -> None:
        """Show that so many records were written by this run."""
        now = time.monotonic()
        if not self.live and now - self.said < EVERY:
            return
        self.said = now
        rate = written / max(now - self.begun, 1e-9)
        done = written + self.skipped
        eta = duration((self.total - done) / rate) if rate else "?"
        line = f"{done}/{self.total} images  {rate:.0f}/s  ETA {eta}"
        if self.live:
            sys.stderr.write("\r" + line.ljust(self.width))
            self.width = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """What others print starts on a fresh line."""
        if self.width:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self.width = 0


def duration(seconds: float) -> str:
    """42s, 1m12s, 3h05m."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if whole < 60:
        return f"{whole}s"
    return f"{hours}h{minutes % 60:02d}m" if hours else f"{minutes}m{whole % 60:02d}s"
