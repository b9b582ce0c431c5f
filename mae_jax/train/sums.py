"""The gradient of a batch in parts, one after the other: sums that are divided once at the end."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mae_jax.core import tree
from mae_jax.core.types import Params


class Sums(NamedTuple):
    """sum(w g) in float32 with stacked layers, the statistics after the last part, sum(w metric), sum(w)."""

    grads: Any
    stats: Any
    metrics: Any
    weight: Array

    def means(self) -> tuple[Any, Any, Any]:
        """(gradient, statistics, metrics): sums over sum(w)."""
        scale = 1 / jnp.maximum(self.weight, 1e-12)
        over = lambda sums: jax.tree.map(lambda x: x * scale, sums)
        return over(self.grads), self.stats, over(self.metrics)


def accumulate(
    loss: Callable, params: Params, stats: Any, held: Any, batch: Any, microbatches: int, rows: Array | None = None,
    stacks: Mapping[str, int] = {},
) -> Sums:  # fmt: skip
    """The sums over `microbatches` parts of a batch.

    Args:
      loss: (params, stats, held, part, rows) -> (w loss, (statistics, metrics, w)).
      held: what the loss reads besides and never differentiates.
      rows: the row in the global batch of each sample; None: they are the whole batch.
      stacks: whose gradients stay stacked (core/tree.py: stack_layers), as the loop over their layers leaves them.
    """
    grad = jax.grad(loss, has_aux=True)
    rows = jnp.arange(len(jax.tree.leaves(batch)[0])) if rows is None else rows

    def add(carry, part):
        stats, total = carry
        g, (stats, metrics, w) = grad(params, stats, held, *part)
        g = jax.tree.map(lambda x: x.astype(jnp.float32), tree.stack_layers(g, stacks))
        new = (g, jax.tree.map(lambda m: w * m, metrics), w)
        return (stats, new if total is None else jax.tree.map(jnp.add, total, new)), None

    if microbatches == 1:
        (stats, (g, metrics, w)), _ = add((stats, None), (batch, rows))
        return Sums(g, stats, metrics, w)
    # Part m is rows m::M: the contiguous cut would move samples between devices.
    split = lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)
    parts = jax.tree.map(split, (batch, rows))
    shapes = jax.eval_shape(lambda: add((stats, None), jax.tree.map(lambda x: x[0], parts))[0][1])
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (stats, (g, metrics, w)), _ = jax.lax.scan(add, (stats, zero), parts)
    return Sums(g, stats, metrics, w)
