"""`--profile A:B`: a trace of some steps of a run for xprof or TensorBoard, and the operations that took longest."""

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mae_jax.core.errors import UserError
from mae_jax.train.progress import Progress
from mae_jax.train.xplane import Op, read_ops

LONGEST = 100  # steps in a trace: it holds every operation of every step
SHOWN = 15  # rows of the table
WRAPPERS = re.compile(r"^(\w+)\((.*)\)$")  # jit(f), jvp(Encoder), transpose(jvp(Encoder))
INNER = {"while", "body", "cond", "closed_call", "checkpoint", "rematted_computation", "pjit", "remat"}


def parse_span(text: str, steps: int) -> tuple[int, int]:
    """(A, B) of "A:B", the B - A steps that come after step A of a run of so many steps.

    Raises: UserError: it is no such span.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise UserError(f"--profile={text}: A:B is expected, two numbers of steps, as --profile=20:25.")
    first, last = int(match[1]), int(match[2])
    if last <= first:
        raise UserError(f"--profile={text}: nothing lies between step {first} and step {last}; A:B needs A < B.")
    if last > steps:
        raise UserError(f"--profile={text}: the run has {steps} steps (train.steps), so B is at most {steps}.")
    if last - first > LONGEST:
        raise UserError(
            f"--profile={text} asks for {last - first} steps. A trace holds every operation of every step, and viewers "
            f"take at most a few dozen; ask for {LONGEST} at most, as --profile={first}:{first + 5}."
        )
    return first, last


class Profile:
    """Traces the steps after A up to B; every process its own, into WORKDIR/profile. The lead prints the table.

    A run that goes on in the middle of the span traces what is left of it; one that is past the span says so and goes
    on, because launchers start the same command again.

    Args:
      span: (A, B), or None: does nothing.
      start: the step that the run is at.
    """

    def __init__(self, span: tuple[int, int] | None, workdir: Path, start: int = 0):
        self.span, self._workdir = span, workdir
        self._lead = jax.process_index() == 0
        self._first: int | None = None  # the step at which the running trace began
        self._step = start
        self._begun = 0.0
        self._annotation: Any = contextlib.nullcontext()
        self._directory = ""
        if span is not None and start >= span[1]:
            self._say(f"profile: the run is at step {start}, past --profile={span[0]}:{span[1]}; nothing is traced.")
            self.span = None

    def at(self, step: int, pending: Any, progress: Progress) -> None:
        """Before the step that follows `step`. `pending`: what the devices are still computing."""
        if self.span is None:
            return
        self._step = step
        if self._first is not None:
            self._annotation.__exit__(None, None, None)
            if step >= self.span[1]:
                jax.block_until_ready(pending)
                with progress.paused():
                    self._stop()
                return
        elif self.span[0] <= step < self.span[1]:
            with progress.paused():
                self._start(step, pending)
        if self._first is not None:
            self._annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
            self._annotation.__enter__()

    def close(self, pending: Any) -> None:
        """At the end of the run, however it ends: a trace that is under way is written."""
        if self._first is None:
            return
        self._annotation.__exit__(None, None, None)
        self._step += 1
        with contextlib.suppress(Exception):  # what broke the step is already on its way up
            jax.block_until_ready(pending)
        self._stop()

    def _start(self, step: int, pending: Any) -> None:
        jax.block_until_ready(pending)  # nothing of the steps before
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it slows the host down, and the host is part of what is looked at
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._directory = tempfile.mkdtemp(prefix=".profile_", dir=self._workdir)
        jax.profiler.start_trace(self._directory, profiler_options=options)
        self._first, self._begun = step, time.perf_counter()

    def _stop(self) -> None:
        assert self._first is not None
        seconds = time.perf_counter() - self._begun
        first, self._first, self.span = self._first, None, None
        jax.profiler.stop_trace()
        trace = self._keep(first)
        if self._lead:
            devices = jax.local_device_count()
            table = top_ops(read_ops(trace), self._step - first, seconds, devices)
            table = f"profile of steps {first}:{self._step}\n{table}"
            trace.with_name("top_ops.txt").write_text(table + "\n")
            self._say(f"{table}\n  trace: tensorboard --logdir {self._workdir / 'profile'} (with xprof installed)")

    def _keep(self, first: int) -> Path:
        """Move what jax wrote to where viewers look for it, under names that two processes of a host do not share."""
        session = self._workdir / "profile" / "plugins" / "profile" / f"steps_{first}_{self._step}"
        session.mkdir(parents=True, exist_ok=True)
        host = socket.gethostname()
        if jax.process_count() > 1:
            host += f"_process_{jax.process_index()}"
        trace = session / f"{host}.xplane.pb"
        for path in Path(self._directory).rglob("*"):
            for ending in (".xplane.pb", ".trace.json.gz"):
                if path.name.endswith(ending):
                    os.replace(path, session / f"{host}{ending}")
        shutil.rmtree(self._directory, ignore_errors=True)
        return trace

    def _say(self, message: str) -> None:
        if self._lead:
            print(message, flush=True)


def where(op_name: str) -> tuple[str, str]:
    """(the module, "" or "backward" or "recomputed") of an HLO instruction's scopes.

    "jit(step)/transpose(jvp(Encoder))/blocks/Block/mlp/fc1/dot_general" is the backward pass of
    Encoder/blocks/Block/mlp/fc1.
    """
    scopes = op_name.split("/")[:-1]  # the last is the operation itself
    names: list[str] = []
    for scope in scopes:
        wrappers = []
        while match := WRAPPERS.match(scope):
            wrappers.append(match[1])
            scope = match[2]
        if scope and scope not in INNER and not {"jit", "pjit"} & set(wrappers):
            names.append(scope)
    kind = "recomputed" if "rematted_computation" in op_name else "backward" if "transpose(" in op_name else ""
    return "/".join(names), kind


def top_ops(ops: Sequence[Op], steps: int, seconds: float, devices: int, shown: int = SHOWN) -> str:
    """The table: share of the operations' time, ms per step and device, calls, operation, where it comes from.

    Instructions that differ by number only are one row where they come from one module; where no module is named
    (the optimizer), the line of source stands for it.
    """
    rows: dict[tuple[str, str], list[float]] = {}
    main = max(ops, key=lambda op: op.ns).program if ops else ""
    for op in ops:
        module, kind = where(op.origin.op_name)
        place = module or op.origin.source or "?"
        place += f" ({kind})" if kind else ""
        if op.program != main:
            place = f"{op.program or 'no program'}: {place}"
        row = rows.setdefault((re.sub(r"[.\d]+$", "", op.name) or op.name, place), [0.0, 0.0])
        row[0] += op.ns
        row[1] += op.calls
    total = sum(op.ns for op in ops)
    per = 1e6 * steps * devices
    lines = [
        f"  {seconds / steps * 1e3:.2f} ms per step by the clock, tracing included; operations: {total / per:.2f} ms "
        f"per step and device"
    ]
    if not ops:
        return "\n".join([*lines, "  the trace names no operation of a device: is this backend's profiler supported?"])
    lines.append(f"  {'share':>7}  {'ms':>9}  {'calls':>7}  operation, and the module that it comes from")
    longest = sorted(rows.items(), key=lambda row: -row[1][0])
    for (name, place), (ns, calls) in longest[:shown]:
        lines.append(f"  {ns / total:>7.1%}  {ns / per:>9.3f}  {calls / steps / devices:>7.1f}  {name}  {place}")
    rest = sum(ns for _, (ns, _) in longest[shown:])
    if rest:
        lines.append(f"  {rest / total:>7.1%}  {rest / per:>9.3f}  {'':>7}  {len(longest) - shown} others")
    return "\n".join(lines)
