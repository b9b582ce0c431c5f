"""Implementations of attention without mask and bias, which of them a chip can run, and the choice at the start.

All compute softmax(scale q k^T) v for q, k, v [b, h, n, c] with a float32 softmax, and agree but for rounding:

* "einsum": two batched products and jax.nn.softmax; runs everywhere, takes masks and biases (nets/attention.py).
* "deferred": the same products; weights stay unnormalised, and the division by their sum comes after the second
  product, on n x c numbers instead of n x n (Dao et al. 2022, arXiv 2205.14135, without its tiles).
* "xla": jax.nn.dot_product_attention.
* "cudnn": cuDNN's fused kernel by the same function: NVIDIA GPUs, bfloat16.
* "pallas": jax.experimental.pallas's flash attention for TPUs, on lengths padded to whole tiles of 128.
* "lanes": our kernel for TPUs and short sequences, on heads that lie side by side (nets/attention_lanes.py).
"""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.core.chips import defaults, family_of
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import device_now, each_alone
from mae_jax.nets.attention_lanes import lanes

KINDS = ("einsum", "deferred", "xla", "cudnn", "pallas", "lanes")
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


def _library(implementation: str, q: Heads, k: Heads, v: Heads, scale: float) -> Heads:
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, scale=scale, implementation=implementation)  # type: ignore[call-overload]
    return out.swapaxes(1, 2)


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


def _lanes(q: Heads, k: Heads, v: Heads, scale: float) -> Heads:
    """`lanes` of heads that stand apart."""
    b, h, n, _ = q.shape
    side_by_side = jnp.stack([q, k, v], axis=1).transpose(0, 3, 1, 2, 4).reshape(b, n, -1)
    return lanes(side_by_side, None, h, scale).reshape(b, n, h, -1).swapaxes(1, 2)


FUNCTIONS: dict[str, Any] = {
    "deferred": deferred,
    "xla": functools.partial(_library, "xla"),
    "cudnn": functools.partial(_library, "cudnn"),
    "pallas": pallas,
    "lanes": _lanes,
}


def cannot(kind: str, family: str, dtype: Any) -> str | None:
    """Why a family of chips ("cpu", "gpu", "tpu") cannot run an implementation in this precision; None where it can."""
    if kind == "cudnn" and family != "gpu":
        return f"cuDNN is NVIDIA's and this is a {family}"
    if kind == "cudnn" and jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return "cuDNN's attention takes bfloat16 (train.precision), not float32"
    if kind in ("pallas", "lanes") and family != "tpu":
        return f"its kernel is written for TPUs and this is a {family}"
    return None


@functools.cache
def trial(kind: str, device_kind: str, dtype: Any) -> str | None:
    """Run forward and backward once on this process's first device: what went wrong, or None."""
    if kind == "einsum":
        return None
    x = np.random.default_rng(0).normal(size=(2, 2, 50, 64)).astype(dtype)

    def loss(f: Any, x: Array) -> Array:
        return jnp.sum(f(x, x, x, 0.125).astype(jnp.float32) * x)

    plain = lambda q, k, v, s: jnp.matmul(
        jax.nn.softmax(jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * s, -1).astype(v.dtype), v
    )
    try:
        got, wanted = (jax.jit(jax.grad(functools.partial(loss, f)))(x) for f in (FUNCTIONS[kind], plain))
    except Exception as error:  # whatever a backend raises where it has no such kernel
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    off = float(jnp.max(jnp.abs(got.astype(jnp.float32) - wanted.astype(jnp.float32))))
    bound = 1e-3 if jnp.dtype(dtype) == jnp.float32 else 0.1
    return None if off < bound else f"its gradient differs from the plain one's by {off:.2g}"


_FAILED: set[tuple[str, str, Any]] = set()


def choose(asked: str, device: Any, dtype: Any) -> tuple[str, str]:
    """(implementation, why) for a run, decided once at its start.

    "auto" takes the first of its chip's list (core/chips.py) that a trial run confirms: by the list and not by the
    clock, so that a run and its resumption choose alike. Devices that are only described (ahead of time) have no trial.

    Raises:
      UserError: an implementation that was asked for and cannot run here.
    """
    family, dtype = family_of(device), jnp.dtype(dtype)
    here = any(device is own for own in jax.local_devices())
    wanted = defaults(family).attention if asked == "auto" else (asked,)
    passed: list[tuple[str, str]] = []
    for kind in wanted:
        wrong = cannot(kind, family, dtype) or (trial(kind, device.device_kind, dtype) if here else None)
        if wrong is None:
            why = f"mesh.attention={asked}" + "".join(f"; not {k}: {w}" for k, w in passed)
            return kind, why
        passed.append((kind, wrong))
        _FAILED.add((kind, device.device_kind, dtype))
    if asked == "auto":
        return "einsum", "mesh.attention=auto" + "".join(f"; not {k}: {w}" for k, w in passed)
    raise UserError(
        f"mesh.attention={asked} cannot run on {device.device_kind}: {passed[0][1]}. Choose mesh.attention=auto, which "
        f"takes what this chip runs best, or einsum, which runs everywhere."
    )


def kind_now(asked: str, dtype: Any) -> str:
    """What `choose` decided, for what is being traced; by the table alone where no run has chosen."""
    if asked != "auto":
        return asked
    device = device_now()
    family, dtype = family_of(device), jnp.dtype(dtype)
    for kind in defaults(family).attention:
        if cannot(kind, family, dtype) is None and (kind, device.device_kind, dtype) not in _FAILED:
            return kind
    return "einsum"


@functools.cache
def say_fallback(asked: str, reason: str) -> None:
    """Say once that an implementation that was asked for gives way to "einsum"."""
    logging.getLogger(__name__).warning("mesh.attention=%s: %s is computed by einsum.", asked, reason)
