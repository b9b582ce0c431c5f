"""Cosine errors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def scaled_cosine_error(pred: Float[Array, "*b d"], target: Float[Array, "*b d"], alpha: float) -> Float[Array, "*b"]:
    """(1 - cos(pred, target))^alpha per vector, in float32 (GraphMAE, Eq. 2); alpha > 1 plays easy vectors down.

    Norms are clamped at 1e-12, so the gradient at a prediction of exactly 0 is 1e12 times the target's direction, as
    in the authors' code.
    """
    cosine = (_unit(pred) * _unit(target)).sum(-1)
    return jnp.maximum(1.0 - cosine, 0.0) ** alpha  # rounding may leave a cosine above 1


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))
