"""The small heads that map a student's features into a teacher's space."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.nets.layers import LayerNorm, dense, gelu


class Adaptor(nn.Module):
    """From a student's features to a teacher's (MaskAlign, DMAE).

    Attributes:
      out: the teacher's width.
      kind: "linear"; "norm_linear": a layer norm first; "mlp": linear, GELU, linear; "mlp2": linear, layer norm,
        linear.
      hidden: width between the two linear layers; None: the student's.
    """

    out: int
    kind: str = "linear"
    norm_eps: float = 1e-6
    dtype: Any = jnp.float32
    hidden: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n out"]:
        if self.kind in ("mlp", "mlp2"):
            x = dense(self.hidden or x.shape[-1], "fc", self.dtype)(x)
        if self.kind == "mlp":
            x = gelu(x)
        if self.kind in ("norm_linear", "mlp2"):
            x = LayerNorm(self.norm_eps, self.dtype, name="norm")(x)
        return dense(self.out, "proj", self.dtype)(x)
