"""A frozen ViT that is read at every layer: the image towers of CLIP and DINO, and encoders of our own runs."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.types import Params
from mae_jax.nets.attention import attention_weights
from mae_jax.nets.block import Stack, Transformer
from mae_jax.nets.layers import LayerNorm, apply, dense, token_init
from mae_jax.tokens import positions
from mae_jax.tokens.grid import grid_shape, patchify


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layers:
    """What a tower says of a batch; t = 1 + n: the class token, then the patches in raster order.

    Attributes:
      hidden: what enters the first block, then every block's output: depth + 1 arrays (Hugging Face's convention).
      normed: the last of them after the last norm.
    """

    hidden: tuple[Float[Array, "b t d"], ...]
    normed: Float[Array, "b t d"]


class Tower(nn.Module):
    """A ViT with a class token, its parameters named as `Encoder`'s (nets/vit.py). It always sees the whole image.

    Attributes:
      size: of the image for which its positions were learned; at another size they are resampled as torch's bicubic
        does.
      patch, channels: patch size along each axis, channels of the image.
      positions: "learned", or "sincos" as MAE's.
      patch_bias: whether the patch embedding has a bias (CLIP: no).
      norm_first: a norm of the embedded tokens, before the first block (CLIP).
    """

    shape: Transformer
    size: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int = 3
    positions: Literal["learned", "sincos"] = "learned"
    patch_bias: bool = True
    norm_first: bool = False

    @nn.compact
    def __call__(self, image: Float[Array, "b *size c"]) -> Layers:
        s, dtype = self.shape, self.shape.compute.dtype
        own, grid = grid_shape(self.size, self.patch), grid_shape(image.shape[1:-1], self.patch)
        x = dense(s.dim, "patch_embed", dtype, use_bias=self.patch_bias)(patchify(image, self.patch))
        token = self.param("class_token", token_init, (1, 1, s.dim)).astype(dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, s.dim)), x], axis=1)
        if self.positions == "learned":
            table = self.param("pos_embed", token_init, (1, 1 + math.prod(own), s.dim))
            table = positions.interpolate(table, own, grid, prefix=1)
        else:
            table = jnp.asarray(positions.with_prefix(positions.sincos(s.dim, grid), 1))[None]
        x = x + table.astype(dtype)
        if self.norm_first:
            x = LayerNorm(s.norm_eps, dtype, name="norm_first")(x)
        last, hidden = Stack(s, name="blocks")(x)
        return Layers((x, *hidden), LayerNorm(s.norm_eps, dtype, name="norm")(last))


def clip_tower(shape: Transformer, size: tuple[int, ...], patch: tuple[int, ...], channels: int = 3) -> Tower:
    """CLIP's image tower (Radford et al., 2021), with its activation."""
    shape = dataclasses.replace(shape, activation="quick_gelu")
    return Tower(shape, size, patch, channels, patch_bias=False, norm_first=True)


# family of mae_jax/teachers: (shape, size, patch, channels) -> its tower
KINDS: dict[str, Callable[..., Tower]] = {
    "clip": clip_tower,
    "dino": Tower,
    "mae": partial(Tower, positions="sincos"),
    "workdir": partial(Tower, positions="sincos"),
}


def project(tower: Tower, params: Params, hidden: tuple[Array, ...], layer: int = -1) -> tuple[Array, Array, Array]:
    """The queries, keys and values [b, heads, t, c] of one block, from the hidden states that the tower returned."""
    s, dtype = tower.shape, tower.shape.compute.dtype
    layer %= s.depth
    block, x = params["blocks"][str(layer)], hidden[layer]
    x = apply(LayerNorm(s.norm_eps, dtype), block["norm1"], x)
    x = apply(dense(3 * s.dim, "qkv", dtype, use_bias=bool(s.qkv_bias)), block["attn"]["qkv"], x)
    q, k, v = x.reshape(*x.shape[:2], 3, s.heads, s.dim // s.heads).transpose(2, 0, 3, 1, 4)
    return q, k, v


def attention(tower: Tower, params: Params, hidden: tuple[Array, ...], layer: int = -1) -> Float[Array, "b h t t"]:
    """softmax(q k^T / sqrt(c)) of one block, which the stack itself does not keep."""
    q, k, _ = project(tower, params, hidden, layer)
    return attention_weights(q, k, tower.shape.qk_scale or q.shape[-1] ** -0.5)


def shapes(tower: Tower) -> Params:
    """The shapes of a tower's parameters, of `jax.ShapeDtypeStruct`s."""
    image = jnp.zeros((1, *tower.size, tower.channels))
    return jax.eval_shape(tower.init, jax.random.key(0), image)["params"]
