"""Multi-head attention: of a sequence to itself, and of one sequence to another."""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mae_jax.core.mesh import split_heads
from mae_jax.losses.similarity import unit
from mae_jax.nets.attention_kinds import ATTENTION, FUNCTIONS, FUSED, say_fallback, unfit
from mae_jax.nets.attention_lanes import BiasApart
from mae_jax.nets.heads_dense import HeadsDense
from mae_jax.nets.layers import Initializer, dense, xavier
from mae_jax.nets.remat import dot_general_of_attended

Bias = bool | Literal["qv"]

_RECORD: contextvars.ContextVar[list[Array] | None] = contextvars.ContextVar("attention_record", default=None)


@contextlib.contextmanager
def record() -> Iterator[list[Array]]:
    """Collect the weights [b, h, n, n] (float32) of every self-attention that is traced inside, in order.

    For pictures and statistics of any method's `encode`, without a word in the method. The blocks must run unrolled
    and without rematerialisation (`Compute(scan=False, remat="none")`): a weight inside a loop cannot leave it.
    Use it inside the traced function, and return what was collected.
    """
    found: list[Array] = []
    token = _RECORD.set(found)
    try:
        yield found
    finally:
        _RECORD.reset(token)


def attention_weights(
    q: Float[Array, "b h n c"],
    k: Float[Array, "b h m c"],
    scale: float,
    valid: Bool[Array, "b m"] | None = None,
    bias: Float[Array, "#b #h n m"] | None = None,
) -> Float[Array, "b h n m"]:
    """softmax(scale q k^T + bias) in float32; keys that are not `valid` get weight 0."""
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * scale
    if bias is not None:
        logits = logits + bias
    if valid is not None:
        logits = jnp.where(valid[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(logits, axis=-1)


def attend(
    q: Float[Array, "b h n c"],
    k: Float[Array, "b h m c"],
    v: Float[Array, "b h m c"],
    scale: float,
    valid: Bool[Array, "b m"] | None = None,
    bias: Float[Array, "#b #h n m"] | None = None,
) -> Float[Array, "b h n c"]:
    """softmax(scale q k^T + bias) v with a float32 softmax; keys that are not `valid` are left out.

    Heads come before positions because both products are then plain batched matmuls.
    """
    return jnp.matmul(attention_weights(q, k, scale, valid, bias).astype(v.dtype), v)


LOG_100 = 4.6052  # as VideoMAE V2 writes it


class Attention(nn.Module):
    """Self-attention with one fused projection; its columns are q, k, v, heads contiguous inside each.

    Attributes:
      heads: number of heads. Each is dim // heads wide, also where that leaves a remainder (CAE-L: 12 heads of 85).
      qkv_bias: whether the fused projection has a bias; "qv": vectors `q_bias` and `v_bias`, none for the keys (BEiT).
      scale: of the logits; None is (dim // heads)^-0.5.
      cosine: logits are cosines times exp(`scale`), a learned number per head of at most log 100, at the start log 10
        (Swin V2; VideoMAE V2's cos_attn).
      attention: the implementation (nets/attention_kinds.py) where nothing is masked, biased or recorded.
      fp8: both projections multiply in float8 (nets/fp8.py).
    """

    heads: int
    qkv_bias: Bias = True
    scale: float | None = None
    dtype: Any = jnp.float32
    kernel_init: Initializer = xavier
    cosine: bool = False
    attention: str = "einsum"
    fp8: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        valid: Bool[Array, "b n"] | None = None,
        bias: Float[Array, "#b #h n n"] | None = None,
    ) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        c = d // self.heads
        inner = c * self.heads
        scale = c**-0.5 if self.scale is None else self.scale
        kind = self._kind(n, c, valid is not None or bias is not None)
        qkv_bias: Array | None = None
        of_out = None
        if self.qkv_bias == "qv":
            q_bias = self.param("q_bias", nn.initializers.zeros, (inner,))
            v_bias = self.param("v_bias", nn.initializers.zeros, (inner,))
            qkv_bias = jnp.concatenate([q_bias, jnp.zeros(inner), v_bias])
        if kind in FUSED and not self.cosine:
            product, own = BiasApart(3 * inner, self.dtype, self.qkv_bias is True, self.fp8, name="qkv")(x)
            of_out = dot_general_of_attended
            out = FUSED[kind](product, own if qkv_bias is None else qkv_bias, self.heads, scale)
        else:
            qkv = fused(self, 3, self.heads, c, "qkv", self.qkv_bias is True, self.fp8)(x)
            if qkv_bias is not None:
                qkv = qkv + qkv_bias.reshape(1, 1, 3, self.heads, c).astype(qkv.dtype)
            q, k, v = qkv.transpose(2, 0, 3, 1, 4)
            if self.cosine:
                own = self.param("scale", nn.initializers.constant(math.log(10.0)), (self.heads,))
                factor = jnp.exp(jnp.minimum(own, LOG_100))[None, :, None, None]
                q, k, scale = (unit(q) * factor).astype(v.dtype), unit(k).astype(v.dtype), 1.0
            out = self._attend(kind, q, k, v, scale, valid, bias).swapaxes(1, 2).reshape(b, n, inner)
        return dense(d, "proj", self.dtype, kernel_init=self.kernel_init, fp8=self.fp8, dot_general=of_out)(out)

    def _kind(self, n: int, c: int, masked: bool) -> str:
        """What computes it: "einsum" where something is masked, biased or recorded, and where nothing else fits."""
        if self.is_initializing() or _RECORD.get() is not None:
            return "einsum"
        for kind in ATTENTION.now(self.attention, self.dtype):
            split = kind in ("pallas", *FUSED) and split_heads(self.heads)
            reasons = [
                "attention with a mask or bias" if masked else None,
                "attention split over mesh.tensor" if split else None,
                unfit(kind, n, self.heads, c, self.dtype),
            ]
            found = [reason for reason in reasons if reason]
            if kind == "einsum" or not found:
                return kind
            if self.attention != "auto":
                for reason in found:
                    say_fallback(self.attention, reason)
        return "einsum"

    def _attend(
        self, kind: str, q: Array, k: Array, v: Array, scale: float, valid: Array | None, bias: Array | None
    ) -> Array:
        if kind != "einsum":
            return FUNCTIONS[kind](q, k, v, scale)
        weights = attention_weights(q, k, scale, valid, bias)
        if (found := _RECORD.get()) is not None:
            found.append(weights)
        return jnp.matmul(weights.astype(v.dtype), v)


def fused(
    module: Any, streams: int, heads: int, width: int, name: str, use_bias: bool, fp8: bool = False
) -> Callable[[Float[Array, "b n d"]], Float[Array, "b n streams heads width"]]:
    """The child `name` of an attention: one matrix for several streams of heads, dealt over tensor where split."""
    if split_heads(heads) and not module.is_initializing():
        return HeadsDense(streams, heads, width, module.dtype, use_bias, name=name)
    out = streams * heads * width
    linear = dense(out, name, module.dtype, use_bias=use_bias, kernel_init=module.kernel_init, fp8=fp8)
    return lambda x: linear(x).reshape(*x.shape[:2], streams, heads, width)


class CrossAttention(nn.Module):
    """Attention of `x` (queries) to other sequences: keys from `keys`, values from `values` (None: the keys').

    Parameters: q, k, v (or q and kv), proj (kernel, and bias where there is one).

    Attributes:
      heads, scale: as in `Attention`; the width is the queries'.
      qkv_bias: whether q, k and v have biases; "qv": q and v only.
      fused_kv: keys and values by one matrix, whose Xavier bound is narrower than that of two (Hi-End-MAE).
    """

    heads: int
    qkv_bias: Bias = True
    scale: float | None = None
    dtype: Any = jnp.float32
    kernel_init: Initializer = xavier
    fused_kv: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        keys: Float[Array, "b m e"],
        values: Float[Array, "b m e"] | None = None,
        valid: Bool[Array, "b m"] | None = None,
        bias: Float[Array, "#b #h n m"] | None = None,
    ) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        c = d // self.heads

        def project(name: str, y: Float[Array, "b l e"]) -> Float[Array, "b h l c"]:
            use_bias = self.qkv_bias is True or (self.qkv_bias == "qv" and name != "k")
            y = dense(c * self.heads, name, self.dtype, use_bias=use_bias, kernel_init=self.kernel_init)(y)
            return y.reshape(b, -1, self.heads, c).swapaxes(1, 2)

        q = project("q", x)
        if self.fused_kv:
            use_bias = self.qkv_bias is True
            k, v = fused(self, 2, self.heads, c, "kv", use_bias)(keys).transpose(2, 0, 3, 1, 4)
        else:
            k, v = project("k", keys), project("v", keys if values is None else values)
        scale = c**-0.5 if self.scale is None else self.scale
        out = attend(q, k, v, scale, valid, bias).swapaxes(1, 2).reshape(b, n, c * self.heads)
        return dense(d, "proj", self.dtype, kernel_init=self.kernel_init)(out)
