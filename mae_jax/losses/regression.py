"""Distances of single values, before any mean."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float


def smooth_l1(pred: Float[Array, "*n"], target: Float[Array, "*n"], beta: float = 1.0) -> Float[Array, "*n"]:
    """d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere (Huber's loss over beta; torch's smooth_l1_loss)."""
    distance = jnp.abs(pred - target)
    return jnp.where(distance < beta, 0.5 * jnp.square(distance) / beta, distance - 0.5 * beta)


# MaskAlign's names (OpenDriveLab/maskalign, --loss_type); its smooth L1 is doubled, so that it is d^2 near 0 as l2 is.
DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "smoothl1": lambda pred, target: 2 * smooth_l1(pred, target),
    "l2": lambda pred, target: jnp.square(pred - target),
    "l1": lambda pred, target: jnp.abs(pred - target),
}
