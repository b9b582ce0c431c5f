"""Losses over hidden tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def squared_error(pred: Float[Array, "b n p"], target: Float[Array, "b n p"]) -> Float[Array, "b n"]:
    """Mean squared error of each token over its values."""
    return jnp.square(pred - target).mean(axis=-1)


def masked_mean(
    per_token: Float[Array, "b n"], hidden: Bool[Array, "b n"], valid: Bool[Array, "b n"] | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean over the hidden (and real) tokens of the whole batch, and how many there are.

    An all-invalid batch gives 0 with weight 0, not NaN.
    """
    chosen = hidden if valid is None else hidden & valid
    weight = chosen.sum(dtype=jnp.float32)
    total = jnp.where(chosen, per_token, 0.0).sum()
    return total / jnp.maximum(weight, 1.0), weight
