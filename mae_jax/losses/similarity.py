"""Distances that see directions only."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x / |x| in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis=-1, keepdims=True), 1e-24))


def cosine_distance(p: Float[Array, "*b d"], z: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """2 - 2 cos(p, z), the squared distance of the unit vectors, in [0, 4] (BYOL, Eq. 2)."""
    return 2 - 2 * (unit(p) * unit(z)).sum(axis=-1)
