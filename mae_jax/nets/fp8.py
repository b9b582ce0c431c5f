"""Matrix products in float8 with per-tensor scales computed at each use ("current scaling"): no state, no history.

Operands are e4m3 forward; the incoming gradient is e5m2, for its range (Micikevicius et al. 2022, arXiv 2209.05433).
Sums are float32. A scale brings a tensor's largest magnitude to the largest float8, so nothing overflows. It
is taken over what is multiplied at once: where devices compute apart (train/apart.py), over a device's own rows of a
microbatch, so that their number changes a result by float8's rounding. The operands are kept for the backward pass.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

FORWARD, BACKWARD = jnp.float8_e4m3fn, jnp.float8_e5m2
PRODUCT = "float8 product"  # the name under which nets/remat.py keeps a layer's result


def quantise(x: Array, dtype: Any) -> tuple[Array, Float[Array, ""]]:
    """(x / scale in float8, scale), scale = max|x| / the largest number of `dtype`."""
    x = x.astype(jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(x)), 1e-30) / float(jnp.finfo(dtype).max)
    return (x / scale).astype(dtype), scale


@jax.custom_vjp
def matmul(x: Float[Array, "*b d"], w: Float[Array, "d e"]) -> Float[Array, "*b e"]:
    """x w in float8, result in x's dtype."""
    return _forward(x, w)[0]


def _dot(a: Array, b: Array, over: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    return lax.dot_general(a, b, (over, ((), ())), preferred_element_type=jnp.float32)


def _forward(x: Array, w: Array) -> tuple[Array, tuple]:
    (qx, sx), (qw, sw) = quantise(x, FORWARD), quantise(w, FORWARD)
    out = _dot(qx, qw, ((x.ndim - 1,), (0,))) * (sx * sw)
    return out.astype(x.dtype), (qx, sx, qw, sw, jnp.zeros((0,), w.dtype))


def _backward(kept: tuple, g: Array) -> tuple[Array, Array]:
    qx, sx, qw, sw, like = kept
    qg, sg = quantise(g, BACKWARD)
    rows = tuple(range(g.ndim - 1))
    dx = _dot(qg, qw, ((g.ndim - 1,), (1,))) * (sg * sw)
    dw = _dot(qx, qg, (rows, rows)) * (sx * sg)
    return dx.astype(g.dtype), dw.astype(like.dtype)


matmul.defvjp(_forward, _backward)


def dot_general(x: Array, w: Array, dims: Any, *_: Any, **__: Any) -> Array:
    """In the place of `lax.dot_general` in a linear layer (x [..., d], w [d, e])."""
    assert dims == (((x.ndim - 1,), (0,)), ((), ())), dims
    return checkpoint_name(matmul(x, w), PRODUCT)
