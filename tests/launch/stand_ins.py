"""Programs that stand in for gcloud, sbatch, kubectl and others on the PATH: they record their calls, exactly."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT = 120  # seconds until a test gives a launcher up
ODD = ["a b", "it's", '"', "$HOME", "`id`", "$(id)", "*", "", "new\nline", "\\", "#", "~", "{a,b}", "&&"]
# Calls come from several processes at once: one at a time writes.
RECORD = """#!/usr/bin/env bash
{{ flock 9; printf '%s\\0' {name} "$@" $'\\1' >&9; }} 9>>"$STAND_INS/calls"
{does}
"""


class StandIns:
    """A folder of programs that goes before the PATH.

    Args:
      folder: is made, for them and for what they record.
      programs: {name: what it does, in bash, after having recorded its call}.
    """

    def __init__(self, folder: Path, **programs: str):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name, does in programs.items():
            self.add(folder / "bin" / name, does)
        self.environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "STAND_INS": str(folder)}

    def add(self, path: Path, does: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECORD.format(name=path.name, does=does))
        path.chmod(0o755)

    def calls(self, program: str | None = None) -> list[list[str]]:
        """The argv of every call so far, in order; of one program."""
        path = self.folder / "calls"
        if not path.exists():
            return []
        calls = [call.split("\0")[:-1] for call in path.read_text().split("\1\0")[:-1]]
        return [call for call in calls if program in (None, call[0])]

    def start(self, *argv: Any, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder,
            env=self.environment | environment, start_new_session=True,
        )  # fmt: skip

    def run(self, *argv: Any, **environment: str) -> subprocess.CompletedProcess:
        """Start and finish a program; nothing of it is left behind."""
        return finish(self.start(*argv, **environment))


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    try:
        out, err = process.communicate(timeout=LIMIT)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Kill a program with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
