"""Blocks that also attend to another sequence, and what is built of them: Hi-End-MAE's decoder, CROMA's encoder."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.mesh import shard
from mae_jax.core.types import Mask
from mae_jax.losses.contrast import unit
from mae_jax.nets.attention import Attention, CrossAttention
from mae_jax.nets.block import Mlp, Stack, Transformer, run_blocks
from mae_jax.nets.layers import LayerNorm, conv_bias, dense, token_init
from mae_jax.tokens import positions


class CrossBlock(nn.Module):
    """x + attention(norm(x)), then x + cross_attention(norm(x), memory), then x + mlp(norm(x)).

    Attributes:
      norm_memory: the memory passes the same norm as the queries (CROMA), or none (Hi-End-MAE).
      fused_kv: of the cross attention.

    `drop` multiplies the three branches per sample (nets/block.py).
    """

    shape: Transformer
    norm_memory: bool = False
    fused_kv: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b m d"],
        bias: Float[Array, "#b #h n n"] | None = None,
        cross_bias: Float[Array, "#b #h n m"] | None = None,
        drop: Float[Array, "b 3"] | None = None,
    ) -> Float[Array, "b n d"]:
        s, dtype = self.shape, self.shape.compute.dtype
        add = lambda x, y, i: x + (y if drop is None else y * drop[:, i, None, None].astype(y.dtype))
        x = shard(x)
        y = LayerNorm(s.norm_eps, dtype, name="norm1")(x)
        x = add(x, Attention(s.heads, s.qkv_bias, s.qk_scale, dtype, s.kernel_init, name="attn")(y, None, bias), 0)
        norm = LayerNorm(s.norm_eps, dtype, name="norm2")
        y, memory = norm(x), norm(memory) if self.norm_memory else memory
        cross = CrossAttention(s.heads, s.qkv_bias, s.qk_scale, dtype, s.kernel_init, self.fused_kv, name="cross")
        x = add(x, cross(y, memory, bias=cross_bias), 1)
        y = LayerNorm(s.norm_eps, dtype, name="norm3")(x)
        return add(x, Mlp(int(s.dim * s.mlp_ratio), dtype, s.activation, s.kernel_init, name="mlp")(y), 2)


class CrossStack(nn.Module):
    """`depth` cross blocks; parameters lie per layer, "0/..." and so on.

    `memory` is one for all blocks [b m d], or one for each [depth b m d]. Attributes as in `CrossBlock`.
    """

    shape: Transformer
    norm_memory: bool = False
    fused_kv: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        memory: Float[Array, "b m d"] | Float[Array, "depth b m d"],
        bias: Float[Array, "#b #h n n"] | None = None,
        cross_bias: Float[Array, "#b #h n m"] | None = None,
        drop: Float[Array, "b depth 3"] | None = None,
    ) -> Float[Array, "b n d"]:
        make = partial(CrossBlock, self.shape, self.norm_memory, self.fused_kv)
        call = lambda block, x, own: block(x, own.get("memory", memory), bias, cross_bias, own.get("drop"))
        each = {"memory": memory} if memory.ndim == 4 else {}
        each |= {} if drop is None else {"drop": drop.swapaxes(0, 1)}
        return run_blocks(self, make, call, self.shape, x, each)[0]


class HierarchicalDecoder(nn.Module):
    """Hi-End-MAE's decoder: plain blocks, then one cross block per chosen encoder layer, deep to shallow.

    The sequence stays in the mask's shuffled order: class token, visible tokens, mask tokens.

    Attributes:
      shape: of the decoder; `depth` counts the plain blocks.
      out: values predicted per token.
    """

    shape: Transformer
    out: int

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "b t e"],
        levels: Sequence[Float[Array, "b t e"]],
        mask: Mask,
        grid: tuple[int, ...],
    ) -> tuple[Float[Array, "b s out"], Float[Array, "b s d"], Float[Array, "levels b t d"]]:
        """Return (prediction, the queries that entered, the memories, shallow to deep).

        Args:
          latent: class and visible tokens after the encoder's last norm.
          levels: the same after the chosen blocks, shallow to deep.
          mask: says where the tokens lie.
          grid: patches along each axis.
        """
        s, dtype, ids = self.shape, self.shape.compute.dtype, jnp.concatenate([mask.keep_ids, mask.drop_ids], axis=1)
        bias_init = conv_bias(latent.shape[-1])  # torch's default; only the bridges' weights are Xavier's

        def bridge(i: int, x: Float[Array, "b t e"]) -> Float[Array, "b t d"]:
            return dense(s.dim, f"bridge_{i}", dtype, bias_init=bias_init)(x)

        memories = jnp.stack([bridge(i, level) for i, level in enumerate(levels)])
        x = bridge(len(levels), latent)
        token = self.param("mask_token", token_init, (1, 1, s.dim)).astype(dtype)
        x = jnp.concatenate([x, jnp.broadcast_to(token, (x.shape[0], mask.drop_ids.shape[1], s.dim))], axis=1)
        table = jnp.asarray(positions.sincos(s.dim, grid, first="row"))
        prefix = x.shape[1] - ids.shape[1]
        queries = jnp.concatenate([x[:, :prefix], x[:, prefix:] + table[ids].astype(dtype)], axis=1)
        x, _ = Stack(s, name="blocks")(queries)
        cross = CrossStack(dataclasses.replace(s, depth=len(levels)), fused_kv=True, name="cross_blocks")
        x = cross(x, memories[::-1])
        x = LayerNorm(s.norm_eps, dtype, name="norm")(x)
        return dense(self.out, "pred", dtype)(x).astype(jnp.float32), queries, memories


class JointEncoder(nn.Module):
    """CROMA's encoder of two sensors: radar tokens are the stream, optical tokens the memory of every block."""

    shape: Transformer

    @nn.compact
    def __call__(
        self,
        radar: Float[Array, "b n d"],
        optical: Float[Array, "b m d"],
        bias: Float[Array, "#b h n n"],
        cross_bias: Float[Array, "#b h n m"],
        drop: Float[Array, "b depth 3"] | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
        """Return the tokens before and after the last norm."""
        x = CrossStack(self.shape, norm_memory=True, name="blocks")(radar, optical, bias, cross_bias, drop)
        return x, LayerNorm(self.shape.norm_eps, self.shape.compute.dtype, name="norm")(x)


class PooledHead(nn.Module):
    """mlp(norm(mean of the tokens)): one vector per sample (CROMA's GAP-FFN)."""

    shape: Transformer

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        s, dtype = self.shape, self.shape.compute.dtype
        x = tokens.astype(jnp.float32).mean(axis=1, keepdims=True)
        x = LayerNorm(s.norm_eps, dtype, name="norm")(x)
        return Mlp(int(s.dim * s.mlp_ratio), dtype, s.activation, s.kernel_init, name="mlp")(x)[:, 0]


class ContrastHead(nn.Module):
    """Linear projections of two sensors' vectors to the sphere where they are compared, and the logits' scale.

    Attributes:
      temperature: where the scale starts: 1 / temperature. It is learned as its logarithm, and not clipped.
    """

    shape: Transformer
    temperature: float = 0.07

    @nn.compact
    def __call__(
        self, radar: Float[Array, "b d"], optical: Float[Array, "b d"]
    ) -> tuple[Float[Array, "b d"], Float[Array, "b d"], Float[Array, ""]]:
        """Return (unit vectors of the radar, of the optical sensor, scale)."""
        s, dtype = self.shape, self.shape.compute.dtype
        log_scale = self.param("temperature", nn.initializers.constant(-math.log(self.temperature)), ())
        radar = dense(s.dim, "radar", dtype, kernel_init=s.kernel_init)(radar)
        optical = dense(s.dim, "optical", dtype, kernel_init=s.kernel_init)(optical)
        return unit(radar), unit(optical), jnp.exp(log_scale)
