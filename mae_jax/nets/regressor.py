"""CAE's way from visible latents to codes: a regressor that cross-attends, a decoder among the hidden tokens alone."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.mesh import shard
from mae_jax.core.types import Mask
from mae_jax.nets.attention import CrossAttention
from mae_jax.nets.block import Mlp, Residual, Stack, Transformer, run_blocks
from mae_jax.nets.layers import LayerNorm, dense
from mae_jax.tokens import positions

# The authors cut N(0, 0.02) at one deviation, for tokens and patch embedding.
cut_normal = nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0)


class Projection(nn.Module):
    """Linear layer and norm between the encoder's width and the regressor's, where they differ."""

    shape: Transformer

    @nn.compact
    def __call__(self, x: Float[Array, "b n e"]) -> Float[Array, "b n d"]:
        x = dense(self.shape.dim, "embed", self.shape.compute.dtype)(x)
        return LayerNorm(self.shape.norm_eps, self.shape.compute.dtype, name="norm")(x)


class RegressorBlock(nn.Module):
    """Hidden tokens z ask visible ones and themselves: z + attention(q, k, v) = y, then u + mlp(u) with u = norm(y).

    Queries and keys carry positions, values do not. The second residual starts from the normalised tensor
    (modeling_cae_helper.py: RegressorBlock), unlike in a pre-norm block.
    """

    shape: Transformer

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h d"],
        visible: Float[Array, "b k d"],
        hidden_pos: Float[Array, "b h d"],
        visible_pos: Float[Array, "b k d"],
        drop: Float[Array, "b 2"] | None = None,
    ) -> Float[Array, "b h d"]:
        s, dtype = self.shape, self.shape.compute.dtype
        z = shard(z)
        context = jnp.concatenate([visible, z], axis=1)
        context_pos = jnp.concatenate([visible_pos, hidden_pos], axis=1)
        q = LayerNorm(s.norm_eps, dtype, name="norm1_q")(z + hidden_pos)
        k = LayerNorm(s.norm_eps, dtype, name="norm1_k")(context + context_pos)
        v = LayerNorm(s.norm_eps, dtype, name="norm1_v")(context)
        y = CrossAttention(s.heads, s.qkv_bias, s.qk_scale, dtype, s.kernel_init, name="attn")(q, k, v)
        z = Residual(s.layer_scale, name="scale1")(z, y, None if drop is None else drop[:, 0])
        u = LayerNorm(s.norm_eps, dtype, name="norm2")(z)
        y = Mlp(int(s.dim * s.mlp_ratio), dtype, s.activation, s.kernel_init, name="mlp")(u)
        return Residual(s.layer_scale, name="scale2")(u, y, None if drop is None else drop[:, 1])


class RegressorStack(nn.Module):
    """`depth` regressor blocks, run as `Stack` runs its own. The visible tokens are the same for all of them."""

    shape: Transformer

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b h d"],
        visible: Float[Array, "b k d"],
        hidden_pos: Float[Array, "b h d"],
        visible_pos: Float[Array, "b k d"],
        drop: Float[Array, "b depth 2"] | None = None,
    ) -> Float[Array, "b h d"]:
        call = lambda block, z, drop: block(z, visible, hidden_pos, visible_pos, drop)
        drops = None if drop is None else drop.swapaxes(0, 1)
        return run_blocks(self, partial(RegressorBlock, self.shape), call, self.shape, z, drops)[0]


class Regressor(nn.Module):
    """Latents of the visible tokens -> predicted latents of the hidden ones, in the order of `mask.drop_ids`."""

    shape: Transformer

    @nn.compact
    def __call__(
        self,
        visible: Float[Array, "b k d"],
        mask: Mask,
        grid: tuple[int, ...],
        drop: Float[Array, "b depth 2"] | None = None,
    ) -> Float[Array, "b h d"]:
        dtype, dim = self.shape.compute.dtype, self.shape.dim
        table = _table(self.shape, grid)
        token = self.param("mask_token", cut_normal, (1, 1, dim)).astype(dtype)
        z = jnp.broadcast_to(token, (*mask.drop_ids.shape, dim))
        blocks = RegressorStack(self.shape, name="blocks")
        z = blocks(z, visible, table[mask.drop_ids], table[mask.keep_ids], drop)
        return LayerNorm(self.shape.norm_eps, dtype, name="norm")(z)


class CodeDecoder(nn.Module):
    """Predicted latents of the hidden tokens, positions again, self-attention among them -> logits over `vocab`."""

    shape: Transformer
    vocab: int

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "b h d"],
        mask: Mask,
        grid: tuple[int, ...],
        drop: Float[Array, "b depth 2"] | None = None,
    ) -> Float[Array, "b h vocab"]:
        dtype = self.shape.compute.dtype
        x, _ = Stack(self.shape, name="blocks")(latent + _table(self.shape, grid)[mask.drop_ids], drop=drop)
        x = LayerNorm(self.shape.norm_eps, dtype, name="norm")(x)
        return dense(self.vocab, "head", dtype)(x).astype(jnp.float32)


def _table(shape: Transformer, grid: tuple[int, ...]) -> Float[Array, "n d"]:
    return jnp.asarray(positions.sincos(shape.dim, grid, first="row"), shape.compute.dtype)
