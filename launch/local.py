#!/usr/bin/env python3
"""Start one command as N processes on this machine: CPU devices that are made up, or GPUs shared out.

    python launch/local.py -n 2 -- mae_jax train --config configs/mae/tiny_digits.py --workdir runs/digits
    python launch/local.py -n 8 --platform gpu -- mae_jax train --config ... --workdir ...
    python launch/local.py -n 2 --devices 4 --restarts 3 -- mae_jax train ...

Every process gets --coordinator, --processes and --process-id at the end of its command, and every line that it prints
is marked with its number. SIGTERM and SIGINT are passed on to all, SIGHUP, SIGQUIT and SIGUSR1 as SIGTERM; on Linux
they get SIGTERM as well when this program is killed (setpriv, of util-linux). When one process ends badly the others
get --grace seconds to end by themselves, then SIGTERM, and after as long again SIGKILL.

The exit status is that of the run (mae_jax/core/exits.py): 0 when all ended well; 2, 3 and 4 where one process said so
(starting again will not help); 75 where a process hung or was lost, which is started again --restarts times; 143 after
a signal that saved the state; else that of the first that failed.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where mae_jax is not installed

from mae_jax.core.exits import BAD_INPUT, DONE, GIVEN_UP, INTERRUPTED, RESTART, TOO_LARGE  # noqa: E402

# Signal -> what the processes get. mae_jax saves and stops at SIGTERM and SIGINT; of the others it would die.
PASSED_ON = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGQUIT: signal.SIGTERM,
             signal.SIGHUP: signal.SIGTERM, signal.SIGUSR1: signal.SIGTERM}  # fmt: skip
OURS = ("--coordinator", "--processes", "--process-id")
POLL = 0.05  # seconds


class Refused(Exception):
    """Wrong arguments, before anything is started."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES could name: itself where it is set, else what nvidia-smi lists."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(i) for i in range(len(lines))] if listed.returncode == 0 else []


def environments(platform: str, count: int, devices: int | None) -> list[dict[str, str]]:
    """What each process's environment has that ours has not."""
    if platform == "cpu":
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices or 1}".strip()
        return [{"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}] * count
    found = gpus()
    if not found:
        raise Refused("--platform gpu: no GPU is seen (nvidia-smi -L, CUDA_VISIBLE_DEVICES).")
    each = devices or len(found) // count
    if each * count > len(found) or each < 1:
        each = max(each, 1)
        raise Refused(f"-n {count} with {each} GPU(s) each do not fit the {len(found)} of this machine.")
    return [{"CUDA_VISIBLE_DEVICES": ",".join(found[i * each : (i + 1) * each])} for i in range(count)]


def dies_with_us() -> list[str]:
    """What goes before a command that shall get SIGTERM when we are killed; nothing where that cannot be had."""
    before = ["setpriv", "--pdeathsig", "TERM", "--"]
    if shutil.which(before[0]) is None:
        return []
    tried = subprocess.run([*before, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # busybox has less
    return before if tried.returncode == 0 else []


def commands(command: Sequence[str], count: int, port: int) -> list[list[str]]:
    command = [*dies_with_us(), *command]
    if count == 1:
        return [command]
    address = f"127.0.0.1:{port}"
    shared = [*command, "--coordinator", address, "--processes", str(count), "--process-id"]
    return [[*shared, str(i)] for i in range(count)]


def outcome(ends: Sequence[int]) -> int:
    """The exit status of a run, from those of the processes that ended by themselves, the first to end first.

    A negative status is a signal's number, as of subprocess.
    """
    for verdict in (BAD_INPUT, TOO_LARGE, GIVEN_UP, RESTART):
        if verdict in ends:
            return verdict
    bad = [status for status in ends if status != DONE]
    if INTERRUPTED in bad or -signal.SIGTERM in bad:
        return INTERRUPTED
    if -signal.SIGINT in bad:
        return 128 + signal.SIGINT
    if any(status < 0 for status in bad):  # a process was lost: killed for memory, or crashed
        return RESTART
    return bad[0] if bad else DONE


class Group:
    """The processes of one run.

    Args:
      grace: seconds that the others get when one has failed, and again after SIGTERM.
    """

    def __init__(self, commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]], grace: float):
        self._grace = grace
        self.processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._lock = threading.Lock()
        try:
            for i, (command, environment) in enumerate(zip(commands, environments, strict=True)):
                process = subprocess.Popen(
                    command, env=os.environ | environment | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                )  # fmt: skip
                self.processes.append(process)
                for pipe, out in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                    reader = threading.Thread(target=self._copy, args=(i, pipe, out.buffer), daemon=True)
                    reader.start()
                    self._readers.append(reader)
        except BaseException:
            self.kill()
            raise

    def _copy(self, number: int, pipe: IO[bytes], out: IO[bytes]) -> None:
        mark = f"[{number}] ".encode()
        for line in pipe:
            # Where nobody reads us any more (`| head`) lines go nowhere, and are read on: the process must not wait.
            with self._lock, contextlib.suppress(OSError):
                try:
                    out.write(mark + line.rstrip(b"\n") + b"\n")
                    out.flush()
                except BrokenPipeError:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())

    def send(self, number: int) -> None:
        """Pass a signal on to every process that lives; their helpers are theirs to stop."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def kill(self) -> None:
        """End everything at once, the processes' helpers included."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # start_new_session: the group has the process's number
        for process in self.processes:
            process.wait()

    def wait(self) -> int:
        """Wait for all; see to it that all end once one has ended badly. Returns `outcome`."""
        ends: dict[int, int] = {}
        own: list[int] = []
        failed_at, terminated_at = None, None
        while len(ends) < len(self.processes):
            now = time.monotonic()
            for i, process in enumerate(self.processes):
                if i not in ends and process.poll() is not None:
                    ends[i] = process.returncode
                    if terminated_at is None:
                        own.append(process.returncode)
                    if process.returncode != DONE and failed_at is None:
                        failed_at = now
                        if len(ends) < len(self.processes):
                            how = named(process.returncode)
                            say(f"process {i} ended with {how}; the others get {self._grace:g} s.")
            if failed_at is not None and terminated_at is None and now - failed_at > self._grace:
                self.send(signal.SIGTERM)
                terminated_at = now
            elif terminated_at is not None and now - terminated_at > self._grace:
                break
            time.sleep(POLL)
        self.kill()
        for reader in self._readers:
            reader.join(5)
        return outcome(own)


def named(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def say(message: str) -> None:
    print(f"local.py: {message}", file=sys.stderr, flush=True)


def launch(args: argparse.Namespace) -> int:
    """Start, wait, start again where that helps; returns the exit status."""
    added = environments(args.platform, args.n, args.devices)
    group: Group | None = None
    asked: list[int] = []  # signals that came from outside

    def passed_on(number: int, frame: object) -> None:
        asked.append(PASSED_ON[signal.Signals(number)])
        if group is not None:
            group.send(asked[-1])

    old = {number: signal.signal(number, passed_on) for number in PASSED_ON}
    try:
        for attempt in range(args.restarts + 1):
            group = Group(commands(args.command, args.n, free_port()), added, args.grace)
            for number in asked:  # one that came between two lines of this loop
                group.send(number)
            status = group.wait()
            group = None
            if status != RESTART or asked or attempt == args.restarts:
                return status
            say(f"the same command resumes: start {attempt + 2} of at most {args.restarts + 1}.")
            time.sleep(args.pause)
        return RESTART
    finally:
        if group is not None:
            group.kill()
        for number, handler in old.items():
            signal.signal(number, handler)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("local.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("-n", type=int, required=True, metavar="N", help="processes")
    parser.add_argument("--platform", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument("--devices", type=int, metavar="D", help="of each process (default: 1 CPU device; GPUs / N)")
    parser.add_argument("--restarts", type=int, default=0, metavar="R", help="starts after status 75 (default: 0)")
    parser.add_argument("--pause", type=float, default=2.0, metavar="S", help="seconds before each (default: 2)")
    parser.add_argument("--grace", type=float, default=60.0, metavar="S", help="see above (default: 60)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be started, and start nothing")
    argv = list(argv)
    command = argv[argv.index("--") + 1 :] if "--" in argv else []
    args = parser.parse_args(argv[: argv.index("--")] if "--" in argv else argv)
    args.command = command
    if args.n < 1 or (args.devices is not None and args.devices < 1):
        raise Refused("-n and --devices count from 1.")
    if min(args.restarts, args.pause, args.grace) < 0:
        raise Refused("--restarts, --pause and --grace are 0 or more.")
    if not command:
        raise Refused("no command: give it after --, as in: local.py -n 2 -- mae_jax train --config ... --workdir ...")
    if given := [a for a in command if a.split("=")[0] in OURS]:
        raise Refused(f"{given[0]} is what local.py adds itself; leave it out of the command.")
    if shutil.which(command[0]) is None:
        raise Refused(f"there is no command '{command[0]}' on the PATH.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        if args.dry_run:
            added = environments(args.platform, args.n, args.devices)
            for command, environment in zip(commands(args.command, args.n, free_port()), added, strict=True):
                settings = [f"{key}={shlex.quote(value)}" for key, value in environment.items()]
                print(" ".join([*settings, shlex.join(command)]))
            return DONE
        return launch(args)
    except Refused as error:
        say(str(error))
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
