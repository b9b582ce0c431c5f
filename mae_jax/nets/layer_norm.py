"""Layer norm as XLA computes it, with its gradient written out."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Any, scale: Any, bias: Any, eps: float) -> Array:
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis, float32.

    Keeps `x` and two numbers per row for the backward pass. Autodiff keeps float32 arrays as large as `x`: with those
    that `gelu`'s keeps, a third of the temporaries of scanned blocks (docs/speed.md).
    """
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(x: Any, scale: Any, bias: Any, eps: float) -> tuple[Array, tuple]:
    x32 = jnp.asarray(x, jnp.float32)
    mean = x32.mean(axis=-1, keepdims=True)
    centred = x32 - mean
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + eps)
    return centred * inverse * scale + bias, (x, mean, inverse, scale)


def _layer_norm_backward(eps: float, kept: tuple, g: Array) -> tuple[Array, Array, Array]:
    x, mean, inverse, scale = kept
    unit = (x.astype(jnp.float32) - mean) * inverse
    along = g * scale
    dx = along - along.mean(axis=-1, keepdims=True) - unit * (along * unit).mean(axis=-1, keepdims=True)
    rows = tuple(range(g.ndim - 1))
    return (dx * inverse).astype(x.dtype), (g * unit).sum(rows, keepdims=True), g.sum(rows, keepdims=True)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
