"""The fused projection of attention where a mesh's axis tensor deals the heads over devices (core/mesh.py)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.mesh import active


class HeadsDense(nn.Module):
    """A linear layer onto several streams of heads (q, k, v), each device along tensor with heads of its own.

    The kernel is that of `dense(streams * heads * width)`, columns stream by stream, and lies split by rows: equal cuts
    of its columns would not be whole heads. For the product it changes to heads, an all-to-all of its part.
    Only for meshes whose axis tensor divides the heads (`core.mesh.split_heads`), and not where parameters are made.

    Attributes:
      streams, heads, width: how the columns are made up, the first the slowest.
    """

    streams: int
    heads: int
    width: int
    dtype: Any = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n streams heads width"]:
        now = active()
        assert now is not None
        d, size = x.shape[-1], (self.streams, self.heads, self.width)
        out = self.streams * self.heads * self.width
        kernel = self.param("kernel", nn.initializers.zeros, (d, out)).astype(self.dtype)
        kernel = now.constrain(kernel.reshape(d, *size), None, "tensor", None, rows=False)
        y = jnp.einsum("bnd,dshc->bnshc", now.constrain(x.astype(self.dtype)), kernel)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (out,)).astype(self.dtype)
            y = y + now.constrain(bias.reshape(1, 1, *size), None, None, "tensor", None, rows=False)
        return now.constrain(y, None, None, "tensor", None)
