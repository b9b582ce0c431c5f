"""A decoder that reads what is visible and then what is asked for, and predicts the latter alone (VideoMAE)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.nets import flops
from mae_jax.nets.block import Stack, Transformer
from mae_jax.nets.layers import LayerNorm, dense, torch_linear
from mae_jax.tokens import positions


class TailDecoder(nn.Module):
    """[visible tokens ; a mask token for each position asked for], never unshuffled -> a prediction per mask token.

    Which positions are asked for is free: those hidden from the encoder (VideoMAE), or a static number of any, seen
    ones too (VideoMAE V2). Order enters through the positions alone: the fixed table of `n` tokens, counted through.

    Attributes:
      shape: its own, narrower and shallower than the encoder's.
      out: values predicted per token.
    """

    shape: Transformer
    out: int

    @nn.compact
    def __call__(
        self, latent: Float[Array, "b k e"], keep_ids: Int[Array, "b k"], ask_ids: Int[Array, "b m"], n: int
    ) -> Float[Array, "b m out"]:
        dtype = self.shape.compute.dtype
        # Outside the part that the authors initialise, so that torch's default stands.
        x = dense(self.shape.dim, "embed", dtype, use_bias=False, kernel_init=torch_linear)(latent)
        fill = self.param("mask_token", mask_token_init, (1, 1, self.shape.dim)).astype(dtype)
        table = jnp.asarray(positions.flat_sincos(self.shape.dim, n)).astype(dtype)
        x = jnp.concatenate([x + table[keep_ids], fill + table[ask_ids]], axis=1)
        x, _ = Stack(self.shape, name="blocks")(x)
        x = LayerNorm(self.shape.norm_eps, dtype, name="norm")(x[:, keep_ids.shape[1] :])
        return dense(self.out, "pred", dtype, kernel_init=self.shape.kernel_init)(x).astype(jnp.float32)

    def flops(self, width: int, visible: int, asked: int) -> float:
        """Of one sample, for latents of this width."""
        s = self.shape
        return (
            flops.dense(visible, width, s.dim)
            + s.depth * flops.block(visible + asked, s.dim, s.mlp_ratio)
            + flops.dense(asked, s.dim, self.out)
        )


# Deviation .02, cut at one deviation; jax, like torch, does not correct for what the cut takes away.
mask_token_init = nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0)
