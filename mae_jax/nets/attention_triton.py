"""Attention of short sequences as one GPU kernel each way (Pallas, by Triton), heads as the projection leaves them.

cuDNN's flash kernels work in tiles of 128 tokens, and want heads apart and an even length: on MAE's 50 and 197 tokens
they and the copies around them take a quarter of a step (docs/speed.md). Here a program holds all keys and values of a
head, reads them out of the projection's product, and the backward pass computes the weights again and writes the three
gradients into one array (as nets/attention_lanes.py does for TPUs).
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from mae_jax.core.mesh import each_alone

LONGEST = 256  # tokens: their weights against a block of queries lie in registers
LARGEST = 8192  # numbers of a head's keys, filled up: two sums as large lie in registers too
PARAMS = plgpu.CompilerParams(num_warps=4, num_stages=1)


def unfit(tokens: int, head: int) -> str | None:
    """Why sequences of this length and heads of this width cannot go through the kernel; None where they can."""
    if tokens > LONGEST or _power(tokens) * _power(head) > LARGEST:
        return f"attention of {tokens} tokens with heads of {head} numbers, too much for the kernel's registers,"
    return None


def _power(n: int) -> int:
    """The next power of 2, as Triton wants it, and at least the 16 that a matrix unit takes."""
    return max(16, pl.next_power_of_2(n))


def triton(
    qkv: Float[Array, "b n threefold"], bias: Float[Array, " threefold"] | None, heads: int, scale: float
) -> Float[Array, "b n inner"]:
    """softmax(scale q k^T) v for every head, of one projection's product and bias (q, k, v; heads side by side)."""
    bias = jnp.zeros(qkv.shape[-1]) if bias is None else bias.astype(jnp.float32)
    return each_alone(lambda x, bias: _attend(x, bias, heads, scale), qkv, bias, kernel=True)


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the kernels cut [b, n, 3 * heads * head]: one sample and head a program, `queries` of it at a time.

    Attributes:
      keys, width: tokens and numbers of a head, filled up to powers of 2, as Triton wants them.
    """

    samples: int
    tokens: int
    heads: int
    head: int
    queries: int

    @classmethod
    def of(cls, qkv: Array, heads: int, backward: bool) -> "Cut":
        b, n, threefold = qkv.shape
        queries = 16 if backward and n > 64 else min(64, _power(n))  # the fastest on an H200 (docs/speed.md)
        return cls(b, n, heads, threefold // 3 // heads, queries)

    @property
    def keys(self) -> int:
        return _power(self.tokens)

    @property
    def width(self) -> int:
        return _power(self.head)

    @property
    def blocks(self) -> int:
        return -(-self.tokens // self.queries)

    def at(self, who: tuple[Any, Any], part: int, row: Array) -> tuple[tuple[Any, Array, Array], Array]:
        """(indices, what of them is inside) of these tokens of q, k or v (part 0, 1, 2) of a (sample, head)."""
        own = jnp.arange(self.width)
        col = (part * self.heads + who[1]) * self.head + own
        inside = (row[:, None] < self.tokens) & (own[None, :] < self.head)
        return (who[0], row[:, None], col[None, :]), inside


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attend(qkv: Array, bias: Array, heads: int, scale: float) -> Array:
    cut = Cut.of(qkv, heads, backward=False)
    return pl.pallas_call(
        functools.partial(_forward, cut, scale),
        out_shape=jax.ShapeDtypeStruct((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype),
        grid=(cut.samples, cut.heads, cut.blocks),
        compiler_params=PARAMS,
        name="attention_triton_forward",
    )(qkv, bias)


def _backward_call(heads: int, scale: float, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    qkv, bias = kept
    cut = Cut.of(qkv, heads, backward=True)
    dqkv, dbias = pl.pallas_call(
        functools.partial(_backward, cut, scale),
        out_shape=[
            jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
            jax.ShapeDtypeStruct((cut.samples, qkv.shape[2]), jnp.float32),
        ],
        grid=(cut.samples, cut.heads),
        compiler_params=PARAMS,
        name="attention_triton_backward",
    )(qkv, bias, g.astype(qkv.dtype))
    return dqkv, dbias.sum(axis=0)


# By `_attend`: a kernel itself jax keeps in a rematerialised block whether its result is used or not.
_attend.defvjp(lambda qkv, bias, *rest: (_attend(qkv, bias, *rest), (qkv, bias)), _backward_call)


def _load(cut: Cut, who: tuple[Any, Any], ref: Any, bias_ref: Any, part: int, row: Array) -> Array:
    """Tokens of q, k or v with the bias, in the product's precision; 0 outside."""
    at, inside = cut.at(who, part, row)
    x = plgpu.load(ref.at[at], mask=inside, other=0.0).astype(jnp.float32)
    bias = plgpu.load(bias_ref.at[at[2][0]], mask=jnp.arange(cut.width) < cut.head, other=0.0)
    return (x + bias[None, :]).astype(ref.dtype)


def _weights(cut: Cut, q: Array, k: Array, scale: float) -> tuple[Array, Array]:
    """(exp(logits - their maximum), its sum per query), float32; 0 for keys that are only there to fill up."""
    logits = plgpu.dot(q, k, trans_b=True) * (scale * math.log2(math.e))
    logits = jnp.where(jnp.arange(cut.keys)[None, :] < cut.tokens, logits, -1e30)
    weights = jnp.exp2(logits - logits.max(axis=1)[:, None])
    return weights, weights.sum(axis=1)


def _forward(cut: Cut, scale: float, qkv_ref: Any, bias_ref: Any, out_ref: Any) -> None:
    who = pl.program_id(0), pl.program_id(1)
    row, keys = pl.program_id(2) * cut.queries + jnp.arange(cut.queries), jnp.arange(cut.keys)
    q = _load(cut, who, qkv_ref, bias_ref, 0, row)
    k, v = (_load(cut, who, qkv_ref, bias_ref, part, keys) for part in (1, 2))
    weights, total = _weights(cut, q, k, scale)
    out = plgpu.dot(weights.astype(v.dtype), v) / total[:, None]
    at, inside = cut.at(who, 0, row)
    plgpu.store(out_ref.at[at], out.astype(out_ref.dtype), mask=inside)


def _backward(cut: Cut, scale: float, qkv_ref: Any, bias_ref: Any, g_ref: Any, out_ref: Any, sum_ref: Any) -> None:
    who, keys = (pl.program_id(0), pl.program_id(1)), jnp.arange(cut.keys)
    k, v = (_load(cut, who, qkv_ref, bias_ref, part, keys) for part in (1, 2))

    def write(part: int, row: Array, grad: Array) -> None:
        at, inside = cut.at(who, part, row)
        plgpu.store(out_ref.at[at], grad.astype(out_ref.dtype), mask=inside)

    def block(i: Any, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        row = i * cut.queries + jnp.arange(cut.queries)
        q = _load(cut, who, qkv_ref, bias_ref, 0, row)
        at, inside = cut.at(who, 0, row)
        g = plgpu.load(g_ref.at[at], mask=inside, other=0.0)
        weights, total = _weights(cut, q, k, scale)
        weights = weights / total[:, None]
        back = plgpu.dot(g, v, trans_b=True)
        along = (weights * back).sum(axis=1)
        logits = (weights * (back - along[:, None]) * scale).astype(q.dtype)
        dq = plgpu.dot(logits, k)
        write(0, row, dq)
        dk = sums[1] + plgpu.dot(logits, q, trans_a=True)
        dv = sums[2] + plgpu.dot(weights.astype(g.dtype), g, trans_a=True)
        return sums[0] + dq.sum(axis=0), dk, dv

    zeros = jnp.zeros((cut.keys, cut.width), jnp.float32)
    dq_sum, dk, dv = jax.lax.fori_loop(0, cut.blocks, block, (jnp.zeros((cut.width,), jnp.float32), zeros, zeros))
    write(1, keys, dk)
    write(2, keys, dv)
    for part, total in enumerate((dq_sum, dk.sum(axis=0), dv.sum(axis=0))):
        (sample, _, col), _ = cut.at(who, part, keys)
        plgpu.store(sum_ref.at[sample, col[0]], total, mask=jnp.arange(cut.width) < cut.head)
