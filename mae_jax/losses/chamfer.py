"""Chamfer distance between sets of points."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.distances import squared_distances

Chamfer = Literal["l2", "l1"]


def chamfer(pred: Float[Array, "*b k 3"], target: Float[Array, "*b m 3"], kind: Chamfer = "l2") -> Float[Array, ""]:
    """The mean over all sets, in float32.

    "l2": mean squared distance of a predicted point to the nearest target point, plus that of a target point to the
    nearest predicted one. "l1": the same of distances, halved (Point-MAE's ChamferDistanceL2 and L1).
    """
    squared = squared_distances(pred, target)
    there, back = squared.min(axis=-1), squared.min(axis=-2)
    if kind == "l2":
        return there.mean() + back.mean()
    return (_root(there).mean() + _root(back).mean()) / 2


def _root(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """sqrt with gradient 0 at 0, where it has none."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
