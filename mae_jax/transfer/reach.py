"""What of a method its encoder reads, found by tracing `encode`: which parameters, statistics and leaves of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Var

from mae_jax.core import tree
from mae_jax.core.types import Features
from mae_jax.methods.base import Method
from mae_jax.nets.compute import Compute
from mae_jax.train.build import frozen_shapes, sample_batch

CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call")


@dataclasses.dataclass(frozen=True)
class Reach:
    """What reaches an output: paths of `params`, `stats`, `ema`; names of the batch's `leaves`, of `frozen` networks.

    Attributes:
      out: shapes of the output.
      all_params, all_stats: the whole trees as ShapeDtypeStructs.
    """

    params: frozenset[str]
    stats: frozenset[str]
    ema: frozenset[str]
    frozen: frozenset[str]
    leaves: frozenset[str]
    out: Any
    all_params: Any
    all_stats: Any


@functools.lru_cache(maxsize=32)
def reach(method: Method, read: Callable[[Features], Any]) -> Reach:
    """What `read(method.encode(...))` depends on. Touches no device; blocks run unrolled here, whatever the config."""
    method = dataclasses.replace(method, compute=Compute())
    batch = jax.eval_shape(lambda: sample_batch(method))
    params, stats = jax.eval_shape(method.init, jax.random.key(0), batch)
    ema = jax.eval_shape(method.start_ema, params, stats)
    inputs = {"params": params, "stats": stats, "ema": ema, "frozen": frozen_shapes(method), "leaves": batch}

    def run(given):
        rest = {name: given[name] for name in ("stats", "ema", "frozen")}
        return read(method.encode(given["params"], rest, given["leaves"]))

    jaxpr, out = jax.make_jaxpr(run, return_shape=True)(inputs)
    used = used_inputs(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    paths = [path for path, hit in zip(tree.flatten(inputs), used, strict=True) if hit]
    of = lambda part: frozenset(p.removeprefix(part + "/") for p in paths if p.startswith(part + "/"))
    return Reach(
        of("params"), of("stats"), of("ema"), frozenset(p.split("/")[0] for p in of("frozen")), of("leaves"), out,
        params, stats,
    )  # fmt: skip


def used_inputs(jaxpr: Any, used: Sequence[bool]) -> list[bool]:
    """Which inputs of a jaxpr its outputs in `used` depend on. Looks into calls; loops count as a whole."""
    needed = {v for v, hit in zip(jaxpr.outvars, used, strict=True) if hit and isinstance(v, Var)}
    for eqn in reversed(jaxpr.eqns):
        hits = [v in needed for v in eqn.outvars]
        if any(hits):
            reads = _reads(eqn, hits)
            needed |= {v for v, hit in zip(eqn.invars, reads, strict=True) if hit and isinstance(v, Var)}
    return [v in needed for v in jaxpr.invars]


def _reads(eqn: Any, hits: Sequence[bool]) -> list[bool]:
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if eqn.primitive.name in CALLS and inner is not None and len(inner.invars) == len(eqn.invars):
        return used_inputs(inner, hits)
    return [True] * len(eqn.invars)


def pruned(values: Any, paths: frozenset[str]) -> dict[str, Any]:
    """The nested dicts of those `paths` alone."""
    return tree.unflatten({path: x for path, x in tree.flatten(values).items() if path in paths})


def whole(values: Any, shapes: Any, fill: Callable[[Any], Any]) -> dict[str, Any]:
    """The tree of `shapes` with `values` in it, and fill(shape) where they have nothing."""
    flat = tree.flatten(values)
    return tree.unflatten({path: flat[path] if path in flat else fill(s) for path, s in tree.flatten(shapes).items()})
