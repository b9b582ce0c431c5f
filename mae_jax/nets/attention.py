"""Multi-head self-attention."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mae_jax.nets.layers import dense


def attend(
    q: Float[Array, "b h n c"],
    k: Float[Array, "b h m c"],
    v: Float[Array, "b h m c"],
    scale: float,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b h n c"]:
    """softmax(scale q k^T) v with a float32 softmax; keys that are not `valid` are left out.

    Heads come before positions because both products are then plain batched matmuls.
    """
    logits = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32) * scale
    if valid is not None:
        logits = jnp.where(valid[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
    return jnp.matmul(jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)


class Attention(nn.Module):
    """Self-attention with one fused projection; its columns are q, k, v, heads contiguous inside each.

    Attributes:
      heads: number of heads; must divide the width.
      qkv_bias: whether the fused projection has a bias.
      scale: of the logits; None is (dim / heads)^-0.5.
    """

    heads: int
    qkv_bias: bool = True
    scale: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], valid: Bool[Array, "b n"] | None = None) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        qkv = dense(3 * d, "qkv", self.dtype, use_bias=self.qkv_bias)(x)
        q, k, v = qkv.reshape(b, n, 3, self.heads, d // self.heads).transpose(2, 0, 3, 1, 4)
        scale = (d // self.heads) ** -0.5 if self.scale is None else self.scale
        out = attend(q, k, v, scale, valid).swapaxes(1, 2).reshape(b, n, d)
        return dense(d, "proj", self.dtype)(out)
