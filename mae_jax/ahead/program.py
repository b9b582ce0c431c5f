"""A train step compiled, and what can be said of it: memory, FLOPs, collectives, roofline."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mae_jax.ahead import step, traffic
from mae_jax.ahead.collectives import Collective, from_program
from mae_jax.ahead.hlo import Program
from mae_jax.ahead.roofline import Roofline, network_seconds, roofline
from mae_jax.ahead.topology import Topology, uncached
from mae_jax.testing.flops import dot_flops
from mae_jax.train.build import Run

GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device of a compiled step.

    Attributes:
      arguments: the train state, frozen networks and a batch. outputs: what does not take an argument's place.
      temporaries: what is computed in between. code: the program.
    """

    arguments: int
    temporaries: int
    outputs: int = 0
    code: int = 0

    @property
    def peak(self) -> int:
        """All of it: the compiler's figure of what the step needs at once."""
        return self.arguments + self.temporaries + self.outputs + self.code


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is known of a step on a topology.

    Attributes:
      memory: None where the compiler refused the step for its size and did not say all of it.
      refused: what the compiler said where it refused.
      limit: bytes of a device that a program may use; None where that is not known.
      state: bytes per device of "parameters", "optimizer", "averages", "statistics", "frozen", "batch".
      formula: FLOPs of a step per device by the method's closed formula (3 x forward); None where it has none.
      traced: FLOPs of all matrix products of the traced step per device, what is computed again included.
      moved: bytes between a device's cores and its memory in one step; None where nothing was compiled.
      collectives: None where nothing was compiled.
      roofline: None where the chip is not in the table, or nothing was compiled.
      seconds: of compiling.
      asked: of what config and task; None of a run that was given.
    """

    run: Run
    topology: Topology
    memory: Memory | None
    refused: str
    limit: float | None
    state: Mapping[str, int]
    formula: float | None
    traced: float
    moved: int | None
    collectives: tuple[Collective, ...] | None
    roofline: Roofline | None
    seconds: float
    asked: step.Asked | None = None

    @property
    def fits(self) -> bool:
        """Whether the compiler took the step and the device holds it; True too where its memory is not known."""
        return not self.refused and (self.limit is None or self.memory is None or self.memory.peak <= self.limit)

    @property
    def over(self) -> float:
        """By how many bytes the step is too large; 0 where it fits."""
        if self.fits or self.memory is None or self.limit is None:
            return 0.0
        return max(0.0, self.memory.peak - self.limit)


def compiled(asked: step.Asked, topology: Topology) -> Figures:
    """Compile the step for the topology. Raises UserError where the config does not fit its devices."""
    return dataclasses.replace(measured(step.make_run(asked, topology.devices), topology), asked=asked)


def measured(run: Run, topology: Topology) -> Figures:
    """Compile the run's step and take its figures."""
    traced = step.trace(run)
    known: dict[str, Any] = {
        "run": run, "topology": topology, "state": state_bytes(run), "formula": formula_flops(run),
        "traced": dot_flops(traced.jaxpr.jaxpr) / run.mesh.size,
    }  # fmt: skip
    start = time.perf_counter()
    try:
        with uncached() if topology.ahead else contextlib.nullcontext():
            program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if (found := exhausted(str(error))) is None:
            raise
        said, used, limit = found
        arguments = sum(known["state"].values())
        memory = None if used is None else Memory(arguments, max(0, int(used) - arguments))
        limit = limit or topology.memory
        return Figures(
            memory=memory, refused=said, limit=limit, moved=None, collectives=None, roofline=None,
            seconds=time.perf_counter() - start, **known,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    text = Program(program.as_text())
    found_in = from_program(text, dict(run.mesh.shape))
    moved = traffic.hbm_bytes(text) + 2 * sum(c.bytes for c in found_in)
    line = None
    if topology.chip is not None:
        line = roofline(known["traced"], moved, network_seconds(found_in, run.mesh, topology), topology.chip)
    return Figures(
        memory=memory_of(program), refused="", limit=topology.memory, moved=moved, collectives=tuple(found_in),
        roofline=line, seconds=seconds, **known,
    )  # fmt: skip


def memory_of(program: Any) -> Memory:
    """The compiler's figures of a compiled function, per device."""
    m = program.memory_analysis()
    outputs = max(0, m.output_size_in_bytes - m.alias_size_in_bytes)
    return Memory(m.argument_size_in_bytes, m.temp_size_in_bytes, outputs, m.generated_code_size_in_bytes)


def exhausted(error: str) -> tuple[str, float | None, float | None] | None:
    """(what the compiler said, bytes wanted, bytes there) of an error that says memory is too small; None of others."""
    if "RESOURCE_EXHAUSTED" not in error and "out of memory" not in error.lower():
        return None
    said = " ".join(error.split())
    size = r"([\d.]+)\s*([KMGT]?)i?B?"
    for pattern in (
        rf"[Uu]sed {size} of {size} hbm",
        rf"temporaries \({size}\) exceeds available HBM \({size}\)",
        rf"{size}\)? exceeds .{{0,40}}?\(?{size}",
    ):
        if found := re.search(pattern, said):
            wanted, there = (float(found[k]) * UNITS[found[k + 1]] for k in (1, 3))
            return said[: found.end() + 1][-160:], wanted, there
    if found := re.search(r"allocat\w* (\d+) bytes", said):
        return said[:200], float(found[1]), None
    return said[:200], None, None


def formula_flops(run: Run) -> float | None:
    """FLOPs of a training step per device by the method's closed formula; None where it has none."""
    cost = run.method.cost()
    return None if cost is None else cost.step * run.config.train.batch / run.mesh.size


def state_bytes(run: Run) -> dict[str, int]:
    """Bytes per device of what a step is given, by kind."""
    shapes = run.shapes
    parts = {
        "parameters": shapes["params"], "optimizer": shapes["opt"], "averages": shapes["ema"],
        "statistics": {k: v for k, v in shapes.items() if k not in ("params", "opt", "ema")},
        "frozen": run.frozen_shapes, "batch": step.batch_shapes(run),
    }  # fmt: skip
    return {name: device_bytes(part) for name, part in parts.items()}


def device_bytes(shapes: Any) -> int:
    """Bytes per device of arrays given by shapes with shardings."""
    leaves = jax.tree.leaves(shapes)
    return sum(int(np.prod(s.sharding.shard_shape(s.shape))) * s.dtype.itemsize for s in leaves)
