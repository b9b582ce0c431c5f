"""Implementations of attention without mask and bias, which of them a chip can run, and the choice at the start.

All compute softmax(scale q k^T) v for q, k, v [b, h, n, c] with a float32 softmax, and agree but for rounding:

* "einsum": two batched products and jax.nn.softmax; runs everywhere, takes masks and biases (nets/attention.py).
* "deferred": the same products; weights stay unnormalised, and the division by their sum comes after the second
  product, on n x c numbers instead of n x n (Dao et al. 2022, arXiv 2205.14135, without its tiles).
* "xla": jax.nn.dot_product_attention.
* "cudnn": cuDNN's fused kernel by the same function: NVIDIA GPUs, bfloat16.
* "pallas": jax.experimental.pallas's flash attention for TPUs, on lengths padded to whole tiles of 128.
* "lanes": our kernel for TPUs and short sequences, on heads that lie side by side (nets/attention_lanes.py).
* "triton": the same for NVIDIA GPUs, bfloat16 (nets/attention_triton.py).
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.core.mesh import each_alone
from mae_jax.nets import attention_lanes, attention_triton
from mae_jax.nets.attention_lanes import lanes
from mae_jax.nets.attention_triton import triton
from mae_jax.nets.choice import Choice, differ

KINDS = ("einsum", "deferred", "xla", "cudnn", "pallas", "lanes", "triton")
TILE = 128

Heads = Float[Array, "b h n c"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def deferred(q: Heads, k: Heads, v: Heads, scale: float) -> Heads:
    """softmax(scale q k^T) v, divided by the softmax's sum at the end."""
    return _deferred_forward(q, k, v, scale)[0]


def _deferred_forward(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, tuple]:
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * scale
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = jnp.matmul(weights, v, preferred_element_type=jnp.float32) / total
    return out.astype(v.dtype), (q, k, v, weights, total, out)


def _deferred_backward(scale: float, kept: tuple, g: Array) -> tuple[Array, Array, Array]:
    q, k, v, weights, total, out = kept
    g = g.astype(jnp.float32) / total
    own = (g * out).sum(axis=-1, keepdims=True)
    g = g.astype(v.dtype)
    dv = jnp.matmul(weights.swapaxes(-1, -2), g)
    dlogits = weights * (jnp.matmul(g, v.swapaxes(-1, -2), preferred_element_type=jnp.float32) - own) * scale
    dlogits = dlogits.astype(q.dtype)
    return jnp.matmul(dlogits, k), jnp.matmul(dlogits.swapaxes(-1, -2), q), dv


deferred.defvjp(_deferred_forward, _deferred_backward)


def _library(implementation: str, q: Heads, k: Heads, v: Heads, scale: float, **lengths: Array) -> Heads:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, scale=scale, implementation=implementation, **lengths)  # type: ignore[call-overload]
    return out.swapaxes(1, 2)


def cudnn(q: Heads, k: Heads, v: Heads, scale: float) -> Heads:
    """cuDNN's kernel, on lengths padded to even ones: jax 0.10 and 0.11 refuse others in a backward pass."""
    b, _, n, _ = q.shape
    if n % 2 == 0:
        return _library("cudnn", q, k, v, scale)
    more = ((0, 0), (0, 0), (0, 1), (0, 0))
    lengths = jnp.full((b,), n, jnp.int32)
    q, k, v = (jnp.pad(x, more) for x in (q, k, v))
    return _library("cudnn", q, k, v, scale, query_seq_lengths=lengths, key_value_seq_lengths=lengths)[:, :, :n]


def pallas(q: Heads, k: Heads, v: Heads, scale: float) -> Heads:
    """The TPU's kernel, each device on its own rows: XLA does not split a kernel over a mesh by itself."""
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    n = q.shape[2]
    more = -n % TILE

    def run(qkv: Array) -> Array:
        padded = jnp.pad(qkv, ((0, 0), (0, 0), (0, 0), (0, more), (0, 0)))
        rows = jnp.broadcast_to((jnp.arange(n + more) >= n).astype(jnp.int32), (len(qkv), n + more))
        ids = kernel.SegmentIds(q=rows, kv=rows)  # padding attends to padding only
        q, k, v = padded[:, 0], padded[:, 1], padded[:, 2]
        return kernel.flash_attention(q, k, v, segment_ids=ids, sm_scale=scale)[:, :, :n]

    return each_alone(run, jnp.stack([q, k, v], axis=1), kernel=True)


# Of one projection's product and bias, heads side by side: (qkv, bias, heads, scale) -> [b, n, inner].
FUSED: dict[str, Callable[[Array, Array | None, int, float], Array]] = {"lanes": lanes, "triton": triton}


def _apart(kind: str, q: Heads, k: Heads, v: Heads, scale: float) -> Heads:
    """One of `FUSED`, of heads that stand apart."""
    b, h, n, _ = q.shape
    side_by_side = jnp.stack([q, k, v], axis=1).transpose(0, 3, 1, 2, 4).reshape(b, n, -1)
    return FUSED[kind](side_by_side, None, h, scale).reshape(b, n, h, -1).swapaxes(1, 2)


FUNCTIONS: dict[str, Any] = {
    "deferred": deferred,
    "xla": functools.partial(_library, "xla"),
    "cudnn": cudnn,
    "pallas": pallas,
    "lanes": functools.partial(_apart, "lanes"),
    "triton": functools.partial(_apart, "triton"),
}


def unfit(kind: str, tokens: int, heads: int, head: int, dtype: Any) -> str | None:
    """Why an implementation cannot take sequences of this length and heads of this width; None where it can."""
    if kind == "lanes":
        return attention_lanes.unfit(tokens, heads, head, dtype)
    if kind == "triton":
        return attention_triton.unfit(tokens, head)
    if kind == "cudnn" and (head % 8 or head > 128):
        return f"attention of heads of {head} numbers, no multiple of 8 up to 128,"
    return None


def cannot(kind: str, family: str, dtype: Any) -> str | None:
    """Why a family of chips ("cpu", "gpu", "tpu") cannot run an implementation in this precision; None where it can."""
    if kind == "cudnn" and family != "gpu":
        return f"cuDNN is NVIDIA's and this is a {family}"
    if kind == "cudnn" and jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return "cuDNN's attention takes bfloat16 (train.precision), not float32"
    if kind in ("pallas", "lanes") and family != "tpu":
        return f"its kernel is written for TPUs and this is a {family}"
    if kind == "triton" and family != "gpu":
        return f"its kernel is written for GPUs and this is a {family}"
    if kind == "triton" and jnp.dtype(dtype) != jnp.bfloat16:
        return "its kernel takes bfloat16 (train.precision), not float32"
    return None


@functools.cache
def trial(kind: str, device_kind: str, dtype: Any) -> str | None:
    """Run forward and backward once on this process's first device: what went wrong, or None."""
    x = np.random.default_rng(0).normal(size=(2, 2, 51, 64)).astype(dtype)  # odd: kernels are particular about lengths

    def loss(f: Any, x: Array) -> Array:
        return jnp.sum(f(x, x, x, 0.125).astype(jnp.float32) * x)

    plain = lambda q, k, v, s: jnp.matmul(
        jax.nn.softmax(jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * s, -1).astype(v.dtype), v
    )
    gradient = lambda f: lambda: jax.jit(jax.grad(functools.partial(loss, f)))(x)
    return differ(gradient(FUNCTIONS[kind]), gradient(plain), 1e-4 if jnp.dtype(dtype) == jnp.float32 else 0.05)


ATTENTION = Choice("attention", "einsum", ("deferred", "xla"), cannot, trial)


@functools.cache
def say_fallback(asked: str, reason: str) -> None:
    """Say once that an implementation that was asked for gives way to "einsum"."""
    logging.getLogger(__name__).warning("mesh.attention=%s: %s is computed by einsum.", asked, reason)
