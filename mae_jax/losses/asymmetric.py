"""The asymmetric loss of several labels per sample."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def asymmetric(
    logits: Float[Array, "*b c"],
    labels: Shaped[Array, "*b c"],
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    eps: float = 1e-8,
) -> Float[Array, "*b c"]:
    """The asymmetric loss of every class (Ridnik et al. 2021, Eqs. 5 to 7), in float32.

    A positive weighs (1 - p)^gamma_pos; a negative with probability p is taken at p_m = max(p - clip, 0) and weighs
    p_m^gamma_neg. Without the three it is the binary cross entropy.

    Args:
      labels: 0 or 1.
      eps: the least that a logarithm is taken of.
    """
    y, p = labels.astype(jnp.float32), jax.nn.sigmoid(logits.astype(jnp.float32))
    not_p = jnp.minimum(1 - p + clip, 1.0)
    ce = y * jnp.log(jnp.maximum(p, eps)) + (1 - y) * jnp.log(jnp.maximum(not_p, eps))
    miss = 1 - y * p - (1 - y) * not_p
    gamma = gamma_pos * y + gamma_neg * (1 - y)
    # 0 to a power has no gradient to give where the power is not static: there the weight is 0 (or 1) anyway.
    weight = jnp.where(miss > 0, jnp.power(jnp.where(miss > 0, miss, 1.0), gamma), (gamma == 0).astype(jnp.float32))
    return -ce * weight
