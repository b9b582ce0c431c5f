"""Contrastive losses over the global batch: under one global jit, the batch in hand is all of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.losses.cross_entropy import cross_entropy


def info_nce(
    anchors: Float[Array, "b d"],
    others: Float[Array, "b d"],
    scale: Float[Array, ""] | float,
    *,
    stop_gradient: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """InfoNCE (van den Oord et al. 2018): each anchor is to find its own row among all rows of `others`.

    Args:
      anchors, others: unit vectors, whose inner product times `scale` (1 / temperature) is a logit.
      stop_gradient: `others` get no gradient, as behind an all-gather that does not differentiate.

    Returns:
      the mean cross entropy, and the share of anchors whose own row has the largest logit.
    """
    if stop_gradient:
        others = jax.lax.stop_gradient(others)
    logits = scale * (anchors @ others.T)
    own = jnp.arange(len(anchors))
    return cross_entropy(logits, own).mean(), (logits.argmax(axis=1) == own).mean(dtype=jnp.float32)


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x / |x| in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-24))
