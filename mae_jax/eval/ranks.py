"""Where the right class stands among a classifier's scores."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rank(scores: Float[Array, "n c"], labels: Int[Array, " n"]) -> Int[Array, " n"]:
    """How many classes come before the right one: 0 is right at first, below 5 right among the first five.

    Of equal scores the smaller number comes first, and what is not a number before all. Labels below 0 have a rank that
    means nothing.
    """
    own = jnp.take_along_axis(scores, jnp.maximum(labels, 0)[:, None], axis=1)
    equal = (scores == own) & (jnp.arange(scores.shape[1])[None] >= labels[:, None])
    return (~((scores < own) | equal)).sum(axis=1)
