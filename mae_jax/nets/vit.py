"""Vision Transformers: the encoder, the decoder of masked autoencoders, and the classifier."""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mae_jax.core.types import Features, Mask
from mae_jax.nets.attention import CrossAttention
from mae_jax.nets.block import Stack, Transformer
from mae_jax.nets.layers import BatchNorm, Initializer, LayerNorm, constant, conv_bias, dense, token_init, xavier
from mae_jax.tokens import positions
from mae_jax.tokens.gather import restore, take
from mae_jax.tokens.grid import grid_shape, overlapped_shape, patchify, patchify_overlapped
from mae_jax.tokens.positions import Order


class Encoder(nn.Module):
    """A ViT over the visible patches of an array on a grid (image, volume), any size that its patch divides.

    Patches are chosen before they are embedded, so that hidden ones cost nothing (MAE, Sec. 3).

    Attributes:
      patch: patch size along each axis.
      positions: "sincos", fixed, made for whatever size comes in; "flat", likewise, of tokens counted through
        (VideoMAE); "learned", a parameter of `grid`'s size; "none".
      grid: number of patches along each axis, needed for learned positions.
      class_position: whether learned positions have a row for the class token.
      first: which axis has the first channels of a fixed table (tokens/positions.py).
      class_token: whether a class token goes in front.
      final_norm: whether the last norm exists (a mean-pooling classifier puts its own after pooling).
      patch_init, patch_bias_init: of the patch embedding; the bias's default is torch's for a convolution.
      class_init: of the class token.
      transposed: whether a fixed table is that of the grid with its axes exchanged (tokens/positions.py).
      position_init: of learned positions.
      stride: from patch to patch, where they overlap; (): the patch.
    """

    shape: Transformer
    patch: tuple[int, ...]
    class_token: bool = True
    positions: Literal["sincos", "flat", "learned", "none"] = "sincos"
    grid: tuple[int, ...] = ()
    final_norm: bool = True
    first: Order = "column"
    patch_init: Initializer = xavier
    patch_bias_init: Initializer | None = None
    class_init: Initializer = token_init
    class_position: bool = True
    transposed: bool = False
    position_init: Initializer = token_init
    stride: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b *size c"],
        mask: Mask | None = None,
        valid: Bool[Array, "b n"] | None = None,
        drop: Float[Array, "b depth 2"] | None = None,
        bias: Float[Array, "#b #h t t"] | None = None,
    ) -> Features:
        """Encode the tokens that `mask` leaves visible (None: all), in the mask's order.

        Args:
          image: normalised pixels.
          mask: which patches are hidden.
          valid: which patches are real.
          drop: drop-path multipliers (nets/block.py).
          bias: added to every block's attention logits, prefix and visible tokens in order.
        """
        dtype = self.shape.compute.dtype
        if self.stride:
            grid = overlapped_shape(image.shape[1:-1], self.patch, self.stride)
            x = patchify_overlapped(image, self.patch, self.stride)
        else:
            grid = grid_shape(image.shape[1:-1], self.patch)
            x = patchify(image, self.patch)
        fan_in = x.shape[-1]
        if mask is not None:
            x = take(x, mask)
            valid = None if valid is None else jnp.take_along_axis(valid, mask.keep_ids, axis=1)
        bias_init = self.patch_bias_init or conv_bias(fan_in)
        x = dense(self.shape.dim, "patch_embed", dtype, kernel_init=self.patch_init, bias_init=bias_init)(x)
        prefix, table = self._positions(grid)
        if self.positions != "none":
            pos = table[None] if mask is None else table[mask.keep_ids]
            x = x + pos.astype(dtype)
        p = prefix.shape[1]
        if p:
            token = self.param("class_token", self.class_init, (1, 1, self.shape.dim))
            token = jnp.broadcast_to((token + prefix).astype(dtype), (x.shape[0], p, self.shape.dim))
            x = jnp.concatenate([token, x], axis=1)
            if valid is not None:
                valid = jnp.concatenate([jnp.ones((x.shape[0], p), bool), valid], axis=1)
        x, hidden = Stack(self.shape, name="blocks")(x, valid, drop, bias)
        y = LayerNorm(self.shape.norm_eps, dtype, name="norm")(x) if self.final_norm else x
        return Features(
            tokens=x[:, p:], normed=y[:, p:], prefix=y[:, :p], grid=grid if mask is None else (),
            valid=None if valid is None else valid[:, p:], hidden=hidden,
        )  # fmt: skip

    def fixed_table(self, grid: tuple[int, ...]) -> np.ndarray | None:
        """The table [n, d] of a grid, where it is no parameter; None where it is one, or where there are none."""
        if self.positions == "sincos":
            return positions.sincos(self.shape.dim, grid, first=self.first, transposed=self.transposed)
        if self.positions == "flat":
            return positions.flat_sincos(self.shape.dim, math.prod(grid))
        return None

    def _positions(self, grid: tuple[int, ...]) -> tuple[Float[Array, "1 p d"], Float[Array, "n d"]]:
        p = int(self.class_token)
        none = jnp.zeros((1, p, self.shape.dim))
        if self.positions == "none":
            return none, jnp.zeros((math.prod(grid), self.shape.dim))
        fixed = self.fixed_table(grid)
        if fixed is not None:
            return none, jnp.asarray(fixed)
        rows = p if self.class_position else 0
        table = self.param("pos_embed", self.position_init, (1, math.prod(self.grid) + rows, self.shape.dim))
        if grid != self.grid:
            table = positions.interpolate(table[0], self.grid, grid, prefix=rows)[None]
        return table[:, :p] if rows else none, table[0, rows:]


class Decoder(nn.Module):
    """MAE's decoder: visible tokens and mask tokens at their places -> a prediction per token (MAE, Sec. 3).

    Attributes:
      shape: its own, narrower and shallower than the encoder's.
      out: values predicted per token.
      first: which axis has the first channels of its fixed table (tokens/positions.py).
      positions: "sincos", fixed; "learned", a parameter with a row for the class token, which starts as that table.
      transposed: of the table, as the encoder's.
    """

    shape: Transformer
    out: int
    first: Order = "column"
    positions: Literal["sincos", "learned"] = "sincos"
    transposed: bool = False

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "b k e"],
        mask: Mask,
        grid: tuple[int, ...],
        prefix: Float[Array, "b p e"] | None = None,
        valid: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b n out"]:
        dtype = self.shape.compute.dtype
        p = 0 if prefix is None else prefix.shape[1]
        x = latent if prefix is None else jnp.concatenate([prefix, latent], axis=1)
        x = dense(self.shape.dim, "embed", dtype, kernel_init=self.shape.kernel_init)(x)
        fill = self.param("mask_token", token_init, (1, 1, self.shape.dim)).astype(dtype)
        table = positions.sincos(self.shape.dim, grid, first=self.first, transposed=self.transposed)
        head = x[:, :p]
        if self.positions == "learned":
            pos = self.param(
                "pos_embed", constant(positions.with_prefix(table, 1)[None]), (1, 1 + len(table), x.shape[2])
            )
            head, pos = head + pos[:, :1].astype(dtype), pos[:, 1:].astype(dtype)
        else:
            pos = jnp.asarray(table)[None].astype(dtype)
        tokens = restore(x[:, p:], mask, fill) + pos
        x = jnp.concatenate([head, tokens], axis=1) if p else tokens
        if valid is not None and p:
            valid = jnp.concatenate([jnp.ones((x.shape[0], p), bool), valid], axis=1)
        x, _ = Stack(self.shape, name="blocks")(x, valid)
        x = LayerNorm(self.shape.norm_eps, dtype, name="norm")(x)
        return dense(self.out, "pred", dtype, kernel_init=self.shape.kernel_init)(x[:, p:]).astype(jnp.float32)


class AttentivePool(nn.Module):
    """One learned query attends to all tokens; query, keys and values are each normed before (CAE, attentive probe)."""

    shape: Transformer

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        s = self.shape
        query = self.param("class_token", nn.initializers.zeros, (1, 1, s.dim))
        query = jnp.broadcast_to(query, (tokens.shape[0], 1, s.dim))
        q, k, v = (LayerNorm(s.norm_eps, name=f"norm_{n}")(x) for n, x in zip("qkv", (query, tokens, tokens)))
        return CrossAttention(s.heads, s.qkv_bias, s.qk_scale, name="attn")(q, k, v)[:, 0]


class Classifier(nn.Module):
    """The network that is fine-tuned and probed: by default that of facebookresearch/mae, with trainable positions.

    Attributes:
      pool: what the head reads. "mean" of the patch tokens before the last norm, then a norm of its own (`fc_norm`);
        "class", the class token after the last norm; "raw_class", before it; "first", the first patch token after it
        (VideoMAE without mean pooling); "attentive", a learned query's view of all tokens after the last norm.
      head_std: of the truncated normal that initialises the head: 2e-5 to fine-tune, 0.01 to probe.
      positions, first: of the encoder.
      feature_norm: eps of a batch norm without scale and offset before the head, as probes have (MAE, Appendix A.1:
        1e-6); None: there is none.
    """

    shape: Transformer
    classes: int
    size: tuple[int, ...]
    patch: tuple[int, ...]
    class_token: bool = True
    pool: Literal["mean", "class", "raw_class", "first", "attentive"] = "mean"
    head_std: float = 2e-5
    positions: Literal["sincos", "flat", "learned", "none"] = "learned"
    first: Order = "column"
    feature_norm: float | None = None

    @nn.compact
    def __call__(
        self, image: Float[Array, "b *size c"], drop: Float[Array, "b depth 2"] | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b classes"], Float[Array, "b d"]]:
        """Return (logits, the pooled features); with `train` a batch norm before the head takes the batch's moments."""
        features = Encoder(
            self.shape, self.patch, self.class_token, positions=self.positions, grid=grid_shape(self.size, self.patch),
            final_norm=self.pool in ("class", "first", "attentive"), first=self.first, name="encoder",
        )(image, drop=drop)  # fmt: skip
        if self.pool == "mean":
            pooled = LayerNorm(self.shape.norm_eps, name="fc_norm")(features.tokens.astype(jnp.float32).mean(axis=1))
        elif self.pool == "attentive":
            tokens = jnp.concatenate([features.prefix, features.normed], axis=1)
            pooled = AttentivePool(self.shape, name="attend")(tokens).astype(jnp.float32)
        else:
            rows = features.normed if self.pool == "first" else features.prefix
            pooled = rows[:, 0].astype(jnp.float32)
        read = pooled
        if self.feature_norm is not None:
            read = BatchNorm(self.feature_norm, affine=False, name="feature_norm")(pooled, train=train)
        init = nn.initializers.truncated_normal(self.head_std)
        return dense(self.classes, "head", jnp.float32, kernel_init=init)(read), pooled


def sizes(value: int | tuple[int, ...], axes: int = 2) -> tuple[int, ...]:
    """A size given once or per axis, as a tuple."""
    return (value,) * axes if isinstance(value, int) else tuple(value)
