"""What a step will need, guessed without compiling it: what decides which settings are worth a compile.

Activations are the residuals that the traced backward pass asks for; a compiler keeps other ones, so each is corrected
by what a compile of the same kind showed.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.ahead import program, step
from mae_jax.ahead.roofline import Roofline, roofline
from mae_jax.ahead.topology import Topology
from mae_jax.core import tree
from mae_jax.core.keys import Context
from mae_jax.testing.flops import dot_flops
from mae_jax.train.build import Run

# Bytes that stay of the residuals (seen: ViT-B/16 and L/16 of MAE, libtpu 0.0.52, v5e), by (scan, remat).
KEPT: dict[tuple[bool, str], float] = {}
MOVED = 4.0  # times that every activation is written or read in memory, in one step (the same programs)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a search may change without changing a result."""

    microbatches: int
    remat: str
    scan: bool
    fsdp: int

    def of(self, asked: step.Asked) -> step.Asked:
        """`asked` with these settings."""
        mesh = {"remat": self.remat, "scan": self.scan, "fsdp": self.fsdp, "data": -1}
        return asked.with_config(mesh=mesh, train={"microbatches": self.microbatches})

    def overrides(self) -> dict[str, Any]:
        """As config keys."""
        return {
            "train.microbatches": self.microbatches, "mesh.remat": self.remat, "mesh.scan": self.scan,
            "mesh.fsdp": self.fsdp,
        }  # fmt: skip

    def __str__(self) -> str:
        loop = "loop" if self.scan else "unrolled"
        return f"microbatches {self.microbatches}, remat {self.remat}, {loop}, fsdp {self.fsdp}"


@dataclasses.dataclass(frozen=True)
class Traced:
    """One row of a batch through loss and gradient, as traced.

    Attributes:
      residuals: bytes per row that the backward pass reads of the forward pass.
      flops: per row, what is computed again included.
      loops: whether blocks run as a loop when asked to.
    """

    residuals: float
    flops: float
    loops: bool


@dataclasses.dataclass(frozen=True)
class Guess:
    """What settings will need, per device.

    Attributes:
      arguments, weights, activations: bytes; the first exactly, the others by rule.
    """

    settings: Settings
    arguments: float
    weights: float
    activations: float
    roofline: Roofline

    @property
    def peak(self) -> float:
        """Bytes of a device."""
        return self.arguments + self.weights + self.activations


class Predictor:
    """Guesses for settings of one config on one topology; `learn` corrects them by a compile."""

    def __init__(self, asked: step.Asked, topology: Topology):
        self.asked, self.topology = asked, topology
        self._kept = dict(KEPT)
        self._moved = MOVED

    @functools.cache
    def run(self, fsdp: int) -> Run:
        """The run with parameters split over so many devices."""
        return step.make_run(Settings(1, "none", True, fsdp).of(self.asked), self.topology.devices)

    @functools.cache
    def traced(self, remat: str) -> Traced:
        """Loss and gradient with this remat."""
        return trace_row(step.make_run(Settings(1, remat, True, 1).of(self.asked), self.topology.devices))

    def guess(self, s: Settings) -> Guess:
        """What these settings will need."""
        run, traced, chip = self.run(s.fsdp), self.traced(s.remat), self.topology.chip
        assert chip is not None
        config = run.config
        rows = config.train.batch / run.mesh.size
        width = 2 if config.train.precision == "bfloat16" else 4
        count = tree.size(run.shapes["params"])
        arguments = sum(program.state_bytes(run).values())
        # Weights and gradient in compute precision; with microbatches their sum in float32 as well.
        weights = count / s.fsdp * (2 * width + (4 if s.microbatches > 1 else 0))
        once = self.traced("none").residuals * 0.15  # what is alive of the block that is at work
        kept = traced.residuals * self.kept(s) + once
        moved = 2 * arguments + self._moved * self.traced("none").residuals * rows
        moved += 3 * s.microbatches * count * width / (1 if s.fsdp == 1 else s.fsdp)
        return Guess(
            s, arguments, weights, kept * rows / s.microbatches,
            roofline(traced.flops * rows, moved, self.network(s, count * width, run), chip),
        )  # fmt: skip

    def network(self, s: Settings, size: float, run: Run) -> dict[str, float]:
        """Seconds of the gradient's sum over data, and of gathering and scattering `size` bytes over fsdp."""
        chip, devices = self.topology.chip, run.mesh.size
        assert chip is not None
        data, seconds = devices // s.fsdp, {}
        if data > 1:
            links = 1.0 if s.fsdp == 1 else 0.5
            seconds["data"] = 2 * (data - 1) / data * size / s.fsdp / (chip.ici_bandwidth * links)
        if s.fsdp > 1:
            links = 1.0 if data == 1 else 0.5
            passes = 3 * s.microbatches  # weights forward and backward, gradients back
            seconds["fsdp"] = passes * (s.fsdp - 1) / s.fsdp * size / (chip.ici_bandwidth * links)
        return seconds

    def kept(self, s: Settings) -> float:
        """The share of the traced residuals that such settings keep: seen, or the mean of what was seen elsewhere."""
        if (s.scan, s.remat) in self._kept:
            return self._kept[s.scan, s.remat]
        same = [share for (scan, _), share in self._kept.items() if scan == s.scan]
        return sum(same) / len(same) if same else 1.0

    def learn(self, guess: Guess, found: program.Figures) -> None:
        """Correct the guesses of such settings by what a compile of them showed."""
        s = guess.settings
        if found.memory is not None:
            rows = self.run(s.fsdp).config.train.batch / self.run(s.fsdp).mesh.size / s.microbatches
            real = found.memory.peak - guess.arguments - guess.weights
            once = self.traced("none").residuals * 0.15
            share = (real / rows - once) / max(1.0, self.traced(s.remat).residuals)
            self._kept[s.scan, s.remat] = max(0.05, share)
        if found.moved is not None:
            rest = self.traced("none").residuals * self.run(s.fsdp).config.train.batch / self.run(s.fsdp).mesh.size
            self._moved = max(1.0, (found.moved - 2 * guess.arguments) / rest)


def trace_row(run: Run) -> Traced:
    """Trace loss and gradient of the run's method at two sizes of the batch; no device computes."""
    two, four = _residuals(run, 2), _residuals(run, 4)
    jaxpr = jax.make_jaxpr(jax.grad(_loss(run, 2)))(run.shapes["params"]).jaxpr
    return Traced((four - two) / 2, dot_flops(jaxpr) / 2, "scan" in str({e.primitive.name for e in jaxpr.eqns}))


def _loss(run: Run, rows: int) -> Any:
    method, state = run.method, run.shapes
    zeros = lambda shapes: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def loss(params: Any) -> Any:
        batch = {
            name: jnp.zeros((rows if leaf.batched else 1, *leaf.shape), leaf.dtype)
            for name, leaf in method.batch_spec.items()
        }
        rest = {
            "stats": zeros(state["stats"]),
            "ema": zeros(state["ema"]["teacher"]),
            "frozen": zeros(run.frozen_shapes),
        }
        ctx = Context(jax.random.key(0), jnp.zeros((), jnp.int32), jnp.arange(rows), plan=method.plan(0), steps=1)
        return method.loss(params, rest, batch, ctx)[0]

    return loss


def _residuals(run: Run, rows: int) -> float:
    """Bytes that the backward pass of the loss reads, weights included."""
    saved = jax.eval_shape(lambda params: jax.vjp(_loss(run, rows), params)[1], run.shapes["params"])
    return float(sum(math.prod(s.shape) * jnp.dtype(s.dtype).itemsize for s in jax.tree.leaves(saved)))
