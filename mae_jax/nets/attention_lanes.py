"""Attention of short sequences as one TPU kernel, whose heads stay where the projection leaves them.

A head of 32 or 64 numbers fills part of a TPU's 128 lanes, and the compiler moves every token twice to set heads apart,
and every weight n x n through memory. Here a product takes whole lanes, with those of other heads set to 0 on one
side: a matrix unit is 128 deep, so this costs what the head alone would. Weights never leave the chip's memory (Dao et
al. 2022, arXiv 2205.14135; without tiles, since a row of a short sequence fits), and the backward pass computes them
again from q and k.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from mae_jax.core.mesh import each_alone
from mae_jax.nets import fp8 as float8

LANES = 128
MEMORY = 15.5e6  # bytes that one sample may take: a kernel has 16 MiB of a v4's or v5e's memory on the chip
BLOCK_BYTES = 6 * 2**20  # of all blocks that a step of the grid holds, twice (the next is fetched meanwhile)
TOGETHER = 256  # tokens that a turn of the kernel's loop takes


def unfit(tokens: int, heads: int, head: int, dtype: Any) -> str | None:
    """Why sequences of this length and heads of this width cannot go through the kernel; None where they can."""
    if heads * head % LANES:
        return f"attention of {heads} x {head} numbers, no multiple of {LANES},"
    width, item = _block_width(heads * head, head), jnp.dtype(dtype).itemsize
    # Backward: six blocks, each twice, two of scratch; one sum; weights, their gradients and what is turned over.
    if tokens * width * (14 * item + 4) + 6 * 4 * tokens**2 > MEMORY:
        return f"attention of {tokens} tokens, too many for the kernel's memory,"
    return None


def _block_width(inner: int, head: int) -> int:
    """Of the narrowest block of whole heads and whole lanes."""
    width = math.lcm(head, LANES)
    return width if inner % width == 0 else inner


class BiasApart(nn.Module):
    """`dense(features)` as its product and its bias (None without `use_bias`), for the kernel to add."""

    features: int
    dtype: Any = jnp.float32
    use_bias: bool = True
    fp8: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> tuple[Float[Array, "b n e"], Float[Array, " e"] | None]:
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        dot_general = float8.dot_general if self.fp8 else jax.lax.dot_general
        return dot_general(x.astype(self.dtype), kernel, (((2,), (0,)), ((), ()))), bias


def lanes(
    qkv: Float[Array, "b n threefold"], bias: Float[Array, " threefold"] | None, heads: int, scale: float
) -> Float[Array, "b n inner"]:
    """softmax(scale q k^T) v for every head, of one projection's product and bias (q, k, v; heads side by side)."""
    bias = jnp.zeros(qkv.shape[-1]) if bias is None else bias.astype(jnp.float32)
    return each_alone(lambda x, bias: _attend(x, bias[None], heads, scale), qkv, bias, kernel=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attend(qkv: Array, bias: Array, heads: int, scale: float) -> Array:
    cut = Cut.of(qkv, heads, arrays=4)
    return pl.pallas_call(
        functools.partial(_forward, cut, scale),
        out_shape=jax.ShapeDtypeStruct((*qkv.shape[:2], cut.inner), qkv.dtype),
        grid=cut.grid,
        in_specs=[cut.block(p) for p in range(3)] + [cut.vector(p) for p in range(3)],
        out_specs=cut.block(0),
        cost_estimate=cut.cost(qkv, products=2, parts=4),
        name="attention_lanes_forward",
    )(qkv, qkv, qkv, bias, bias, bias)


def _backward_call(heads: int, scale: float, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    qkv, bias = kept
    cut = Cut.of(qkv, heads, arrays=6)
    # One output of all three gradients needs no concatenation; a third axis of the grid writes them in turn.
    part = lambda i, j, p: (i, 0, p * cut.groups + j)
    dqkv, dbias = pl.pallas_call(
        functools.partial(_backward, cut, scale),
        out_shape=[
            jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
            jax.ShapeDtypeStruct((cut.grid[0], 1, qkv.shape[2]), jnp.float32),
        ],
        grid=(*cut.grid, 3),
        in_specs=[cut.block(p) for p in range(3)] + [cut.vector(p) for p in range(3)] + [cut.block(0)],
        out_specs=[pl.BlockSpec(cut.shape, part), pl.BlockSpec((1, 1, cut.width), part)],
        scratch_shapes=[pltpu.VMEM((2, *cut.shape), qkv.dtype), pltpu.VMEM((2, 1, cut.width), jnp.float32)],
        cost_estimate=cut.cost(qkv, products=5, parts=7),
        name="attention_lanes_backward",
    )(qkv, qkv, qkv, bias, bias, bias, g.astype(qkv.dtype))
    return dqkv, dbias.sum(axis=0)


# By `_attend`: a kernel itself jax keeps in a rematerialised block whether its result is used or not.
_attend.defvjp(lambda qkv, bias, *rest: (_attend(qkv, bias, *rest), (qkv, bias)), _backward_call)


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the grid cuts [b, n, 3 * inner] into blocks: samples, and as many heads as whole lanes hold.

    Attributes:
      head: width of a head; width: of a block, of whole heads and whole lanes.
      rows: samples of a block; together: how many of them a turn of the kernel's loop takes, so that the products of
        one fill the waits of another.
    """

    head: int
    width: int
    inner: int
    rows: int
    together: int
    tokens: int
    samples: int

    @classmethod
    def of(cls, qkv: Array, heads: int, arrays: int) -> "Cut":
        b, n, inner = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        width = _block_width(inner, inner // heads)
        most = min(b, 8, max(1, BLOCK_BYTES // (2 * arrays * n * width * qkv.dtype.itemsize)))
        rows = max(d for d in range(1, most + 1) if b % d == 0)
        together = max(d for d in range(1, max(1, min(rows, TOGETHER // n)) + 1) if rows % d == 0)
        return cls(inner // heads, width, inner, rows, together, n, b)

    @property
    def groups(self) -> int:
        return self.inner // self.width

    @property
    def grid(self) -> tuple[int, int]:
        return self.samples // self.rows, self.groups

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.rows, self.tokens, self.width

    def block(self, part: int) -> pl.BlockSpec:
        """Of q, k or v (part 0, 1, 2); part 0 also of what is as wide as one of them."""
        return pl.BlockSpec(self.shape, lambda i, j, *_: (i, 0, part * self.groups + j))

    def vector(self, part: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, self.width), lambda i, j, *_: (0, part * self.groups + j))

    def cost(self, qkv: Array, *, products: int, parts: int) -> pl.CostEstimate:
        """What is told to XLA's scheduler, and to who counts FLOPs: the heads' own products; `parts` as large as q."""
        weights = self.samples * (self.inner // self.head) * self.tokens**2
        moved = qkv.size * qkv.dtype.itemsize * parts // 3
        return pl.CostEstimate(flops=2 * products * weights * self.head, transcendentals=weights, bytes_accessed=moved)

    def heads(self) -> list[tuple[slice, Callable[[Array], Array]]]:
        """Per head of a block: the whole lanes that it touches, and what sets those of other heads to 0."""
        found: list[tuple[slice, Callable[[Array], Array]]] = []
        for first in range(0, self.width, self.head):
            start = first // LANES * LANES
            stop = min(-(-(first + self.head) // LANES) * LANES, self.width)
            found.append((slice(start, stop), functools.partial(_own, first - start, self.head)))
        return found

    def each(self, sample: Callable[[Any, Any], Any], start: Any) -> Any:
        """sample(i, carry) for every sample of a block."""

        def turn(t: Any, carry: Any) -> Any:
            for i in range(self.together):
                carry = sample(t * self.together + i, carry)
            return carry

        return jax.lax.fori_loop(0, self.rows // self.together, turn, start)


def _forward(cut: Cut, scale: float, *refs: Any) -> None:
    (q_ref, k_ref, v_ref, *bias_refs), out_ref = refs[:-1], refs[-1]

    def sample(i: Any, carry: None) -> None:
        q, k, v = (_biased(ref[i], bias) for ref, bias in zip((q_ref, k_ref, v_ref), bias_refs))
        out = _Tiles(cut.width)
        for span, own in cut.heads():
            weights, total = _weights(own(q[:, span]), k[:, span], scale)
            out.add(span, _product(weights.astype(v.dtype), own(v[:, span])) / total)
        out_ref[i] = out.whole().astype(out_ref.dtype)

    cut.each(sample, None)


def _backward(cut: Cut, scale: float, *refs: Any) -> None:
    (q_ref, k_ref, v_ref, *bias_refs), (g_ref, out_ref, sum_ref, later_ref, later_sum_ref) = refs[:6], refs[6:]
    part = pl.program_id(2)

    def sample(i: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        q, k, v = (_biased(ref[i], bias) for ref, bias in zip((q_ref, k_ref, v_ref), bias_refs))
        g = g_ref[i]
        grads = dq, dk, dv = tuple(_Tiles(cut.width) for _ in range(3))
        for span, own in cut.heads():
            one_q = own(q[:, span])
            weights, total = _weights(one_q, k[:, span], scale)
            one_g = (own(g[:, span]).astype(jnp.float32) / total).astype(g.dtype)
            back = _product(one_g, v[:, span], transposed=True)
            along = (weights * back).sum(axis=1, keepdims=True) / total
            logits = (weights * (back - along) * scale).astype(q.dtype)
            dq.add(span, _product(logits, own(k[:, span])))
            dk.add(span, _product(logits.T, one_q))
            dv.add(span, _product(weights.astype(g.dtype).T, one_g))
        wholes = [grad.whole() for grad in grads]
        for ref, whole in zip((out_ref, later_ref.at[0], later_ref.at[1]), wholes):
            ref[i] = whole.astype(out_ref.dtype)
        return tuple(total + whole.sum(axis=0, keepdims=True) for total, whole in zip(sums, wholes))

    @pl.when(part == 0)
    def _() -> None:
        sums = cut.each(sample, (jnp.zeros((1, cut.width), jnp.float32),) * 3)
        for ref, total in zip((sum_ref.at[0], later_sum_ref.at[0], later_sum_ref.at[1]), sums):
            ref[...] = total

    @pl.when(part > 0)
    def _() -> None:
        out_ref[...] = later_ref[part - 1]
        sum_ref[0] = later_sum_ref[part - 1]


def _biased(x: Array, bias_ref: Any) -> Array:
    return (x.astype(jnp.float32) + bias_ref[...]).astype(x.dtype)


def _weights(q: Array, k: Array, scale: float) -> tuple[Array, Array]:
    """(exp(logits - their maximum) [n, n], its sum per row [n, 1]), float32."""
    logits = _product(q, k, transposed=True) * scale
    weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return weights, weights.sum(axis=1, keepdims=True)


def _product(a: Array, b: Array, transposed: bool = False) -> Array:
    """a b, or a b^T, summed in float32."""
    contracted = (((1,), (1 if transposed else 0,)), ((), ()))
    return jax.lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def _own(first: int, width: int, x: Array) -> Array:
    if x.shape[1] == width:
        return x
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where((lane >= first) & (lane < first + width), x, jnp.zeros_like(x))


class _Tiles:
    """A sum [n, width], kept as one array per 128 lanes: heads that share lanes add to the same."""

    def __init__(self, width: int):
        self.width = width
        self.tiles: dict[int, Array] = {}

    def add(self, span: slice, x: Array) -> None:
        for start in range(span.start, span.stop, LANES):
            part = x[:, start - span.start : min(start + LANES, span.stop) - span.start]
            self.tiles[start] = self.tiles[start] + part if start in self.tiles else part

    def whole(self) -> Array:
        return jnp.concatenate([self.tiles[start] for start in range(0, self.width, LANES)], axis=1)
