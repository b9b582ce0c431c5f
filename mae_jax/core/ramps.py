"""From one number to another along a run: learning rates, weight decay, a teacher's momentum."""

import math

import jax.numpy as jnp
from jaxtyping import Array


def cosine(start: float, end: float, progress: Array | float) -> Array:
    """Half a cosine from `start` at progress 0 to `end` at 1, and `end` from there on."""
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(math.pi * jnp.clip(progress, 0.0, 1.0)))
