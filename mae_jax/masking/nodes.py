"""Masking of the nodes of padded graphs: how many are hidden follows from how many are real.

Graphs that are masked together lie in one pool: consecutive rows, side by side. A pool that lies on one device costs no
collective.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mae_jax.core.keys import Context
from mae_jax.masking.select import invert


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Corruption:
    """What becomes of each node of each pool.

    Attributes:
      hidden: is to be predicted (True) or not.
      token: its features are replaced by the mask token.
      noise: they are replaced by those of node `donor` of the same pool. Rounding may leave a hidden node as it was.
    """

    hidden: Bool[Array, "p n"]
    token: Bool[Array, "p n"]
    noise: Bool[Array, "p n"]
    donor: Int[Array, "p n"]


def counts(most: int, ratio: float, replace: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hidden, token, noise) counts, each [most + 1]: m = int(ratio N), int((1 - replace) m), int(replace m) at N.

    On the host in float64: the products truncate to other integers in float32.
    """
    hidden = (ratio * np.arange(most + 1)).astype(np.int32)
    token = ((1 - replace) * hidden).astype(np.int32)
    noise = (replace * hidden).astype(np.int32)
    return hidden, token, noise


def corrupt_nodes(
    ctx: Context, valid: Bool[Array, "b n"], ratio: float, replace: float = 0.0, bucket: int = 1
) -> Corruption:
    """Choose int(ratio N) of the N real nodes of every pool; of these, a share `replace` gets another node's features.

    The authors' permutations (of nodes, hidden nodes, donors) are the orders of the draws "mask", "replace", "donor".

    Args:
      bucket: rows in a pool; a batch that it does not divide has pools of the greatest common divisor.
    """
    pool = pool_size(valid.shape[0], bucket)
    real = pooled(valid, pool)
    m, t, k = (jnp.asarray(table)[real.sum(1)][:, None] for table in counts(real.shape[1], ratio, replace))
    hidden = invert(_order(ctx, "mask", real, pool)) < m
    if replace == 0:
        return Corruption(hidden, hidden, jnp.zeros_like(hidden), jnp.zeros(hidden.shape, jnp.int32))
    place = invert(_order(ctx, "replace", hidden, pool))  # 0..m-1 at hidden nodes
    number = jnp.maximum(place - (m - k), 0)  # the last k are noise, in this order
    donor = jnp.take_along_axis(_order(ctx, "donor", real, pool), number, axis=1)
    return Corruption(hidden, hidden & (place < t), hidden & (place >= m - k), donor)


def pool_size(rows: int, bucket: int) -> int:
    """Rows in a pool: `bucket`, or what of it divides the batch (a picture's, a microbatch)."""
    return math.gcd(rows, bucket)


def pooled(x: Array, pool: int) -> Array:
    """[b, n] -> [b / pool, pool n]."""
    return x.reshape(x.shape[0] // pool, -1)


def _order(ctx: Context, name: str, among: Bool[Array, "p n"], pool: int) -> Int[Array, "p n"]:
    """A random order of the nodes in `among`, followed by all others."""
    rows = among.shape[0] * pool
    draw = jnp.asarray(ctx.uniform(name, (rows, among.shape[1] // pool)))
    return jnp.argsort(jnp.where(among, pooled(draw, pool), jnp.inf), axis=1, stable=True).astype(jnp.int32)
