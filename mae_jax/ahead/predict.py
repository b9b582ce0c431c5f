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
import numpy as np
from jax.sharding import Mesh

from mae_jax.ahead import program, step
from mae_jax.ahead.collectives import Collective
from mae_jax.ahead.roofline import Roofline, network_seconds, roofline
from mae_jax.ahead.topology import Topology
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.mesh import batch_shards
from mae_jax.core.rings import rings
from mae_jax.testing.flops import dot_flops
from mae_jax.train.build import Run

MOVED = 3.0  # times that every residual is written or read in memory in one step, until a compile says better
AT_WORK = 0.15  # share of all residuals that one block's work needs at once
# Share of the residuals that is kept, until a compile says better (MAE ViT-B/16 without remat, 64 per chip of v5e:
# 11.0 GB in all as a loop, 6.2 GB unrolled; libtpu 0.0.51).
KEPT = {True: 1.0, False: 0.4}


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
            "mesh.data": -1, "mesh.fsdp": self.fsdp,
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
        self._kept: dict[tuple[bool, str], float] = {}
        self._moved = MOVED
        self._runs: dict[int, Run] = {}
        self._traced: dict[str, Traced] = {}

    def run(self, fsdp: int) -> Run:
        """The run with parameters split over so many devices. Raises UserError where the config does not fit so."""
        if fsdp not in self._runs:
            self._runs[fsdp] = self._make("none", fsdp)
        return self._runs[fsdp]

    def builds(self, fsdp: int) -> bool:
        """Whether the devices, their slices and the config's other axes take this size of fsdp."""
        try:
            self.run(fsdp)
        except UserError:
            return False
        return True

    @functools.cached_property
    def smallest(self) -> int:
        """The smallest fsdp that builds: more than 1 where fsdp is what crosses slices. Raises UserError: none does."""
        if not (size := next((n for n in divisors(len(self.topology.devices)) if self.builds(n)), 0)):
            self.run(1)  # it says why
        return size

    def traced(self, remat: str) -> Traced:
        """Loss and gradient with this remat."""
        if remat not in self._traced:
            self._traced[remat] = trace_row(self._make(remat, self.smallest))
        return self._traced[remat]

    def _make(self, remat: str, fsdp: int) -> Run:
        """In one piece: shapes and rows are those of every number of microbatches, and the config's may not fit."""
        return step.make_run(Settings(1, remat, True, fsdp).of(self.asked), self.topology.devices)

    def guess(self, s: Settings) -> Guess:
        """What these settings will need."""
        run, traced, chip = self.run(s.fsdp), self.traced(s.remat), self.topology.chip
        assert chip is not None
        rows, count = self.rows(s), tree.size(run.shapes["params"])
        arguments = sum(program.state_bytes(run).values())
        # Weights as they are used, and their gradient in float32; gathered once per step they are whole.
        once = self._by_step(s)
        weights = count * (self._width() + 4) / (1 if once else s.fsdp) + (4 * count / s.fsdp if once else 0)
        moved = 2 * arguments + self._moved * self.traced("none").residuals * rows
        if s.microbatches > 1:  # each reads the weights again, and adds to the sum of gradients
            moved += s.microbatches * count * (2 * self._width() + 8)
        line = roofline(traced.flops * rows / run.mesh.shape["tensor"], moved, self.network(s), chip)
        return Guess(s, arguments, weights, self._activations(s, self.kept(s)) * rows / s.microbatches, line)

    def network(self, s: Settings) -> dict[str, float]:
        """Seconds of the gradient's sum over data, and of gathering weights and scattering gradients over fsdp."""
        run = self.run(s.fsdp)
        mesh, by = run.mesh, rings(run.mesh)
        data, fsdp = (_line(mesh, axis) for axis in ("data", "fsdp"))
        count = tree.size(run.shapes["params"])
        reduced = count * (2 if run.config.mesh.reduce == "bfloat16" else 4)
        times = 1 if self._by_step(s) else s.microbatches
        gathered = count * self._width() * (1 if s.remat == "none" or self._by_step(s) else 2)
        moves = [Collective("all-reduce", 1, reduced // s.fsdp, "data", "", "", data)]
        for kind, size, way in (("reduce-scatter", reduced, by.scatter), ("all-gather", gathered, by.gather)):
            size *= times
            for n, groups in zip(way.sizes, way.groups):
                members = fsdp if groups is None else tuple(fsdp[k] for k in groups[0])
                moves.append(Collective(kind, times, size, "fsdp", "", "", members))
                size //= n  # the next ring sees a part
        return network_seconds(moves, mesh, self.topology)

    def rows(self, s: Settings) -> float:
        """Samples of a step per device."""
        return self.asked.config.train.batch / batch_shards(self.run(s.fsdp).mesh)

    def kept(self, s: Settings) -> float:
        """The share of the traced residuals that such settings keep: seen, or the mean of what was seen elsewhere."""
        if (s.scan, s.remat) in self._kept:
            return self._kept[s.scan, s.remat]
        same = [share for (scan, _), share in self._kept.items() if scan == s.scan]
        return sum(same) / len(same) if same else KEPT[s.scan]

    def learn(self, guess: Guess, found: program.Figures) -> None:
        """Correct the guesses of such settings by what a compile of them showed."""
        s, rows = guess.settings, self.rows(guess.settings)
        if found.memory is not None:
            real = (found.memory.peak - guess.arguments - guess.weights) * s.microbatches / rows
            share = (real - self._activations(s, 0)) / max(1.0, self.traced(s.remat).residuals)
            self._kept[s.scan, s.remat] = max(0.05, share)
        if found.moved is not None:
            self._moved = max(1.0, (found.moved - 2 * guess.arguments) / (self.traced("none").residuals * rows))

    def _activations(self, s: Settings, kept: float) -> float:
        """Bytes per row: what is kept, and what is alive of the block that is at work."""
        return kept * self.traced(s.remat).residuals + AT_WORK * self.traced("none").residuals

    def _width(self) -> int:
        return 2 if self.asked.config.train.precision == "bfloat16" else 4

    def _by_step(self, s: Settings) -> bool:
        """Whether weights are gathered once per step for all microbatches."""
        gather = self.asked.config.mesh.gather
        return s.fsdp > 1 and (gather == "step" or (gather == "auto" and s.microbatches > 1))


def divisors(n: int) -> list[int]:
    """The divisors of n, in order."""
    return [k for k in range(1, n + 1) if n % k == 0]


def _line(mesh: Mesh, axis: str) -> tuple[int, ...]:
    """The first devices along an axis, as positions in the mesh's order."""
    places = np.arange(mesh.size).reshape(mesh.devices.shape)
    return tuple(np.moveaxis(places, mesh.axis_names.index(axis), -1).reshape(-1, mesh.shape[axis])[0].tolist())


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
