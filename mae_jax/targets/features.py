"""Features of a frozen network as targets: how they are normalised."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def whiten(y: Float[Array, "b n d"], eps: float = 1e-5) -> Float[Array, "b n d"]:
    """Each token to zero mean and unit variance over its own values: a layer norm without weights."""
    centred = y - y.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + eps)


def unit(y: Float[Array, "b n d"], eps: float = 1e-12) -> Float[Array, "b n d"]:
    """Each token to length 1; `eps` is the smallest length divided by (torch's F.normalize)."""
    return y / jnp.maximum(jnp.linalg.norm(y, axis=-1, keepdims=True), eps)


def whiten_batch(y: Float[Array, "b n d"], eps: float = 1e-6) -> Float[Array, "b n d"]:
    """By one mean and one (unbiased) variance of all values of the batch."""
    return (y - y.mean()) * jax.lax.rsqrt(y.var(ddof=1) + eps)


# MaskAlign's names (OpenDriveLab/maskalign, --target_norm)
NORMS: dict[str, Callable[[Array], Array]] = {
    "whiten": whiten, "l2": unit, "bn": whiten_batch, "none": lambda y: y,
}  # fmt: skip
