"""A run that is killed, stopped, damaged and starved of disk at random: does it end as if nothing had happened?

    python benchmarks/soak.py --faults 200 --seed 0 --json benchmarks/results/soak.json
    python benchmarks/soak.py --minutes 5

Trains a small MAE on digits by `mae_jax train` (or --config, made small by --set), once undisturbed and once under a
driver that draws faults from a seed. At the end the two loss curves (metrics.jsonl) must agree step for step and bit
for bit, and so must the hashes of the last states. Prints a table in Markdown and one JSON object; status 1 if anything
was lost. A small tmpfs holds the run where this may be mounted (root); elsewhere a full disk is a limit on the size of
files.

Most starts are forks of this process, which has imported everything, so that a restart costs a second or two; every
--fresh-th is a new `python -m mae_jax`.
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Small programs compile in less than the second from which jax keeps them; here every start needs them all.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "mae_jax_soak_cache"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mae_jax.train.loop  # noqa: E402, F401  (what a fork shall not import again)
from mae_jax.commands.main import main as mae_jax_main  # noqa: E402
from mae_jax.core.exits import DONE, INTERRUPTED  # noqa: E402
from mae_jax.train.checkpoint_meta import checkpoint_directory, read_step, saved_steps  # noqa: E402

CONFIG = "configs/mae/tiny_digits.py"
SMALL = (  # tiny_digits, smaller: what is on trial is not the network
    "method.dim=16", "method.depth=1", "method.heads=2", "method.decoder_dim=8", "method.decoder_depth=1",
    "method.decoder_heads=2", "train.batch=16", "optim.warmup=20", "eval.every=0", "eval.protocols=()", "log.every=1",
    "log.norms=none", "log.tensorboard=False", "log.pictures_every=0", "checkpoint.every=10",
)  # fmt: skip
CLOCK = ("images_per_second", "mfu", "data/wait")
DAMAGE = ("flip", "truncate", "delete", "empty metadata")
KINDS = {
    "kill -9": 5, "kill -9 in a save": 5, "SIGTERM": 4, "SIGSTOP, SIGCONT": 3, **dict.fromkeys(DAMAGE, 3),
    "full disk": 3, "kill -9 on a full disk": 2, "start on a full disk": 2,
}  # fmt: skip
PATIENCE = 300.0  # seconds without a step until a run counts as lost


class Lost(Exception):
    """The run did not come back."""


class Soak:
    """One disturbed run. `start` and `kill` leave no process behind; every wait has an end."""

    def __init__(self, workdir: Path, log: Path, argv: list[str], seed: int, fresh: int, tmpfs: bool):
        self.workdir, self.log, self.argv, self.fresh, self.tmpfs = workdir, log, argv, fresh, tmpfs
        self.rng = random.Random(seed)
        self.pid: int | None = None
        self.starts = 0
        self.hardest = resource.getrlimit(resource.RLIMIT_FSIZE)

    def start(self, fresh: bool | None = None) -> None:
        """Start, or resume."""
        self.starts += 1
        fresh = self.starts % self.fresh == 0 if fresh is None else fresh
        with open(self.log, "a") as log:
            if fresh:
                command = [sys.executable, "-m", "mae_jax.commands.main", *self.argv]
                self.pid = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True).pid
                return
            self.pid = os.fork()
            if self.pid:
                return
            os.setsid()
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive this one
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            status = 99
            try:
                status = mae_jax_main(self.argv)
            except BaseException as error:
                import traceback

                traceback.print_exception(error)
            finally:
                sys.stderr.flush()
                os._exit(status)

    def ended(self) -> int | None:
        """Its exit status (negative: the signal), or None while it runs."""
        if self.pid is None:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def signal(self, number: int) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)

    def finish(self, limit: float = PATIENCE) -> int:
        """Wait for its end."""
        until = time.monotonic() + limit
        while (status := self.ended()) is None:
            if time.monotonic() > until:
                self.stop()
                raise Lost("it did not end")
            time.sleep(0.01)
        return status

    def stop(self) -> None:
        """End it, whatever it does."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None

    def step(self) -> int:
        """The last step that is logged."""
        try:
            with open(self.workdir / "metrics.jsonl", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().split(b"\n")[:-1]
            return json.loads(lines[-1])["step"]
        except (FileNotFoundError, IndexError, ValueError):
            return 0

    def wait_for(self, happened, what: str) -> bool:
        """Wait until `happened()`; False where the run was finished before."""
        until, last = time.monotonic() + PATIENCE, -1
        while not happened():
            status = self.ended()
            if status == DONE:
                return False
            if status is not None:
                raise Lost(f"it ended with status {status} while {what} was awaited")
            if (now := self.step()) != last:
                until, last = time.monotonic() + PATIENCE, now
            if time.monotonic() > until:
                raise Lost(f"no step for {PATIENCE:.0f} s while {what} was awaited")
            time.sleep(0.004)
        return True

    def inject(self, kind: str) -> bool:
        """One fault, and the way back; False where the run was finished before it could happen."""
        if kind in DAMAGE and not self.wait_for(lambda: len(saved_steps(self.workdir)) > 1, "a second checkpoint"):
            return False
        at = self.step()
        if kind == "SIGSTOP, SIGCONT":
            self.signal(signal.SIGSTOP)
            time.sleep(self.rng.uniform(0.1, 1.0))
            self.signal(signal.SIGCONT)
        elif kind == "SIGTERM":
            self.signal(signal.SIGTERM)
            if (status := self.finish()) not in (INTERRUPTED, DONE):
                raise Lost(f"SIGTERM: status {status}")
            self.start()
        elif kind in ("full disk", "kill -9 on a full disk"):
            before = self.log.read_text(errors="replace").count("could not be written")
            self.fill()
            try:
                missed = lambda: self.log.read_text(errors="replace").count("could not be written") > before
                if not self.wait_for(missed, "a save without room"):
                    return False
                if kind != "full disk":
                    self.kill()
            finally:
                self.free()
            if kind != "full disk":
                self.start()
        else:
            if kind == "kill -9 in a save":
                saving = lambda: any(checkpoint_directory(self.workdir).glob("*.orbax-checkpoint-tmp*/*"))
                if not self.wait_for(saving, "a save"):
                    return False
                time.sleep(self.rng.expovariate(20))
            self.kill()
            if kind in DAMAGE:
                self.damage(kind)
            if kind == "start on a full disk":
                self.fill()
            self.start()
            if kind == "start on a full disk":
                time.sleep(self.rng.uniform(0.5, 4))
                self.free()
        self.wait_for(lambda: self.step() > at, "the step after the fault")
        return True

    def kill(self) -> None:
        """kill -9. A run that had ended by itself just before must have been finished."""
        if (status := self.ended()) is not None and status != DONE:
            raise Lost(f"it ended with status {status}")
        self.stop()

    def damage(self, kind: str) -> None:
        """Break one file of the newest checkpoint."""
        newest = checkpoint_directory(self.workdir) / str(saved_steps(self.workdir)[-1])
        files = sorted(p for p in newest.rglob("*") if p.is_file())
        if kind == "empty metadata":
            path = newest / "meta" / "metadata"
        else:  # any byte, or any file: many are small, and hold nothing that is read
            weights = [p.stat().st_size for p in files] if self.rng.random() < 0.7 else None
            path = self.rng.choices(files, weights)[0]
        content = bytearray(path.read_bytes())
        if kind == "flip" and content:
            content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        elif kind == "delete":
            path.unlink()
            return
        else:
            del content[self.rng.randrange(max(1, len(content))) if kind == "truncate" else 0 :]
        path.write_bytes(content)

    def fill(self) -> None:
        """Leave no room for another byte."""
        if not self.tmpfs:
            # Smaller than any checkpoint, and set on the living process: the shell's own limits stay as they are.
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (1, self.hardest[1])) if self.pid else None
            return
        with open(self.workdir.parent / "filler", "wb", buffering=0) as file:
            block = bytes(1 << 16)
            while block:
                try:
                    file.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def free(self) -> None:
        """Give the room back."""
        if self.tmpfs:
            (self.workdir.parent / "filler").unlink(missing_ok=True)
        elif self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self.pid, resource.RLIMIT_FSIZE, self.hardest)


def curve(workdir: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def hashes(workdir: Path) -> dict:
    """{path: hash} of the last state."""
    arrays = read_step(checkpoint_directory(workdir), saved_steps(workdir)[-1])["arrays"]
    return {path: array["hash"] for path, array in arrays.items()}


@contextlib.contextmanager
def small_disk(megabytes: int):
    """(a directory, whether it is a tmpfs of so many MB)."""
    folder = Path(tempfile.mkdtemp(prefix="mae_jax_soak_"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    tmpfs = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield folder, tmpfs
    finally:
        if tmpfs:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def soak(args: argparse.Namespace, disk: Path, tmpfs: bool, logs: Path) -> dict:
    """The two runs and what became of the faults."""
    rng = random.Random(args.seed)
    settings = [f"--config.{x}" for x in (*SMALL, *args.set, f"train.steps={args.steps}")]
    argv = lambda workdir: ["train", "--config", args.config, "--workdir", str(workdir), *settings]
    injected, recovered, lost = Counter(), Counter(), []
    began = time.monotonic()
    run = Soak(disk / "run", logs / "run.log", argv(disk / "run"), args.seed + 1, args.fresh, tmpfs)
    whole = Soak(logs / "whole", logs / "whole.log", argv(logs / "whole"), 0, 1, False)
    try:
        whole.start()
        if (status := whole.finish(3600)) != DONE:
            raise SystemExit(f"the undisturbed run ended with {status}: {whole.log.read_text()[-4000:]}")
        undisturbed, began = time.monotonic() - began, time.monotonic()
        over = lambda: args.minutes is not None and time.monotonic() - began > 60 * args.minutes
        run.start()
        gap = args.steps / args.faults
        for number in range(args.faults):
            due = number * gap * 0.9 + rng.uniform(1, 0.9 * gap)
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            if over() or not run.wait_for(lambda due=due: run.step() >= due, f"step {due:.0f}"):
                break
            time.sleep(rng.uniform(0, 0.3))
            injected[kind] += 1
            at = run.step()
            try:
                recovered[kind] += run.inject(kind)
            except Lost as error:
                lost.append({"kind": kind, "number": number, "step": at, "why": str(error)})
                run.stop()
                break
            print(f"{number + 1}/{args.faults}  {kind} at step {at}: back at {run.step()}", flush=True)
        if not lost:
            run.wait_for(lambda: False, "the end")
    except Lost as error:
        lost.append({"kind": "end", "why": str(error)})
    finally:
        run.stop()
        whole.stop()
    a, b = curve(disk / "run"), curve(logs / "whole")
    return {
        "injected": dict(injected), "recovered": dict(recovered), "lost": lost, "faults": sum(injected.values()),
        "steps": args.steps, "logged": len(a), "starts": run.starts,
        "curves_equal": a == b, "first_difference": next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None),
        "states_equal": not lost and hashes(disk / "run") == hashes(logs / "whole"),
        "left_behind": sorted(
            p.name for p in checkpoint_directory(disk / "run").iterdir() if not p.name.isdigit() and p.is_dir()
        ),
        "damaged_seen": run.log.read_text(errors="replace").count("is damaged:"),
        "saves_without_room": run.log.read_text(errors="replace").count("could not be written"),
        "seconds": round(time.monotonic() - began), "seconds_undisturbed": round(undisturbed),
        "tmpfs": tmpfs, "seed": args.seed, "config": args.config, "settings": [*SMALL, *args.set],
        "fresh_every": args.fresh, "python": platform.python_version(), "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(), "command": " ".join(sys.argv),
    }  # fmt: skip


def table(report: dict) -> str:
    """For the README."""
    rows = [f"| {kind} | {n} | {report['recovered'].get(kind, 0)} |" for kind, n in report["injected"].items()]
    total = f"| **all** | **{report['faults']}** | **{sum(report['recovered'].values())}** |"
    return "\n".join(["| fault | injected | recovered |", "|---|---:|---:|", *sorted(rows), total])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="no further faults after so long")
    parser.add_argument("--steps", type=int, help="of the run (default: 40 per fault)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", type=int, default=10, help="every so many starts are a new python")
    parser.add_argument("--megabytes", type=int, default=64, help="of the small disk")
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--logs", type=Path, help="keep the undisturbed run and the logs here")
    args = parser.parse_args()
    args.steps = args.steps or 40 * args.faults
    logs = args.logs or Path(tempfile.mkdtemp(prefix="mae_jax_soak_logs_"))
    logs.mkdir(parents=True, exist_ok=True)
    with small_disk(args.megabytes) as (disk, tmpfs):
        report = soak(args, disk, tmpfs, logs)
        last = "\n".join((logs / "run.log").read_text(errors="replace").splitlines()[-30:])
    good = not report["lost"] and report["curves_equal"] and report["states_equal"]
    print(last if not good else "", table(report), sep="\n\n")
    print(json.dumps(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.logs is None and good:
        shutil.rmtree(logs)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
