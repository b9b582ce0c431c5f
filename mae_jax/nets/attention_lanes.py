"""Attention of short sequences as one TPU kernel, whose heads stay where the projection leaves them.

A head of 32 or 64 numbers fills part of a TPU's 128 lanes, and the compiler moves every token twice to set heads apart,
and every weight n x n through memory. Here a product takes whole lanes, with those of other heads set to 0 on one
side: a matrix unit is 128 deep, so this costs what the head alone would. Weights never leave the chip's memory (Dao et
al. 2022, arXiv 2205.14135; without tiles, since a row of a short sequence fits), and the backward pass computes them
again from q and k.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from mae_jax.core.mesh import each_alone

LANES = 128
LONGEST = 640  # tokens: three arrays n x n of float32 stay within 5 MB
BLOCK_BYTES = 6 * 2**20  # of all blocks that a step of the grid holds, twice (the next is fetched meanwhile)

QKV = Float[Array, "b n 3*h*c"]


def unfit(tokens: int, heads: int, width: int) -> str | None:
    """Why sequences of this length and heads of this width cannot go through the kernel; None where they can."""
    if heads * width % LANES:
        return f"attention of {heads} x {width} numbers, no multiple of {LANES},"
    return f"attention of {tokens} tokens, more than {LONGEST}," if tokens > LONGEST else None


def lanes(qkv: QKV, heads: int, scale: float) -> Float[Array, "b n h*c"]:
    """softmax(scale q k^T) v for every head, from one projection's output (q, k, v; heads contiguous in each)."""
    return each_alone(lambda x: _attend(x, heads, scale), qkv)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(qkv: Array, heads: int, scale: float) -> Array:
    return _call(_forward, qkv, (), heads, scale, outputs=1)[0]


def _attend_backward(heads: int, scale: float, qkv: Array, g: Array) -> tuple[Array]:
    return (jnp.concatenate(_call(_backward, qkv, (g.astype(qkv.dtype),), heads, scale, outputs=3), axis=-1),)


_attend.defvjp(lambda qkv, heads, scale: (_attend(qkv, heads, scale), qkv), _attend_backward)


def _call(
    kernel: Callable[..., None], qkv: Array, more: tuple[Array, ...], heads: int, scale: float, *, outputs: int
) -> list[Array]:
    """`kernel` on blocks of samples and of as many heads as whole lanes hold."""
    b, n, inner = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    width = inner // heads
    block = math.lcm(width, LANES)
    block = block if inner % block == 0 else inner
    groups = inner // block
    arrays = 3 + len(more) + outputs
    most = max(1, BLOCK_BYTES // (2 * arrays * n * block * qkv.dtype.itemsize))
    rows = max(d for d in range(1, min(b, most, 8) + 1) if b % d == 0)
    at = lambda part: pl.BlockSpec((rows, n, block), lambda i, j: (i, 0, part * groups + j))
    return pl.pallas_call(
        functools.partial(kernel, width=width, scale=scale),
        out_shape=[jax.ShapeDtypeStruct((b, n, inner), qkv.dtype)] * outputs,
        grid=(b // rows, groups),
        in_specs=[at(0), at(1), at(2)] + [at(0)] * len(more),
        out_specs=[at(0)] * outputs,
        name=f"attention_lanes{kernel.__name__}",
    )(qkv, qkv, qkv, *more)


def _forward(q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any, *, width: int, scale: float) -> None:
    def sample(i: Any, carry: None) -> None:
        q, k, v = q_ref[i], k_ref[i], v_ref[i]
        out = _Tiles(q.shape)
        for span, own in _heads(q.shape[1], width):
            weights, total = _weights(own(q[:, span]), k[:, span], scale)
            out.add(span, _product(weights.astype(v.dtype), own(v[:, span])) / total)
        out_ref[i] = out.whole().astype(out_ref.dtype)

    jax.lax.fori_loop(0, q_ref.shape[0], sample, None)


def _backward(
    q_ref: Any, k_ref: Any, v_ref: Any, g_ref: Any, dq_ref: Any, dk_ref: Any, dv_ref: Any, *, width: int, scale: float
) -> None:
    def sample(i: Any, carry: None) -> None:
        q, k, v, g = q_ref[i], k_ref[i], v_ref[i], g_ref[i]
        dq, dk, dv = (_Tiles(q.shape) for _ in range(3))
        for span, own in _heads(q.shape[1], width):
            one_q = own(q[:, span])
            weights, total = _weights(one_q, k[:, span], scale)
            one_g = (own(g[:, span]).astype(jnp.float32) / total).astype(g.dtype)
            back = _product(one_g, v[:, span], transposed=True)
            along = (weights * back).sum(axis=1, keepdims=True) / total
            logits = (weights * (back - along) * scale).astype(q.dtype)
            dq.add(span, _product(logits, own(k[:, span])))
            dk.add(span, _product(logits.T, one_q))
            dv.add(span, _product(weights.astype(g.dtype).T, one_g))
        for ref, grad in ((dq_ref, dq), (dk_ref, dk), (dv_ref, dv)):
            ref[i] = grad.whole().astype(ref.dtype)

    jax.lax.fori_loop(0, q_ref.shape[0], sample, None)


def _weights(q: Array, k: Array, scale: float) -> tuple[Array, Array]:
    """(exp(logits - their maximum) [n, n], its sum per row [n, 1]), float32."""
    logits = _product(q, k, transposed=True) * scale
    weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return weights, weights.sum(axis=1, keepdims=True)


def _product(a: Array, b: Array, transposed: bool = False) -> Array:
    """a b, or a b^T, summed in float32."""
    contracted = (((1,), (1 if transposed else 0,)), ((), ()))
    return jax.lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def _heads(block: int, width: int) -> list[tuple[slice, Callable[[Array], Array]]]:
    """Per head of a block: the whole lanes that it touches, and what sets those of other heads to 0."""
    found = []
    for first in range(0, block, width):
        start = first // LANES * LANES
        stop = min(-(-(first + width) // LANES) * LANES, block)
        found.append((slice(start, stop), functools.partial(_own, first - start, width)))
    return found


def _own(first: int, width: int, x: Array) -> Array:
    if x.shape[1] == width:
        return x
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where((lane >= first) & (lane < first + width), x, jnp.zeros_like(x))


class _Tiles:
    """A sum [n, block], kept as one array per 128 lanes: heads that share lanes add to the same."""

    def __init__(self, shape: tuple[int, ...]):
        self.block = shape[1]
        self.tiles: dict[int, Array] = {}

    def add(self, span: slice, x: Array) -> None:
        for start in range(span.start, span.stop, LANES):
            part = x[:, start - span.start : min(start + LANES, span.stop) - span.start]
            self.tiles[start] = self.tiles[start] + part if start in self.tiles else part

    def whole(self) -> Array:
        return jnp.concatenate([self.tiles[start] for start in range(0, self.block, LANES)], axis=1)
