"""Distances between two sets of vectors, for points in space."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float


def squared_distances(a: Float[Array, "*b n d"], b: Float[Array, "*b m d"]) -> Float[Array, "*b n m"]:
    """|a_i - b_j|^2 in float32, exact to rounding, one coordinate at a time: no array of n x m x d.

    For few coordinates; the expansion |a|^2 + |b|^2 - 2ab cancels where points are near each other.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    axes = [jnp.square(a[..., :, None, i] - b[..., None, :, i]) for i in range(a.shape[-1])]
    return functools.reduce(jnp.add, axes)
