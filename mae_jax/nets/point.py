"""The networks of masked autoencoders on point clouds: Point-MAE's tokenizer, encoder and decoder."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.types import Features, Mask
from mae_jax.nets import flops
from mae_jax.nets.block import ACTIVATIONS, Block, Transformer, run_blocks
from mae_jax.nets.layers import BatchNorm, Initializer, LayerNorm, dense, largest, torch_linear
from mae_jax.tokens.gather import gather, take

# Of everything in the encoder, with zero biases (Point-MAE; the bounds at two units are too far to matter).
point_init = nn.initializers.truncated_normal(0.02)
LOCAL, POINT, WIDE = 128, 256, 512  # widths inside the tokenizer
PLACE = 128  # hidden width of the position MLP


class AfterPool(nn.Module):
    """A linear layer on concat(the group's vector, the point's), without making it: the group's part is done once."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled: Float[Array, "b g c"], x: Float[Array, "b g k d"]) -> Float[Array, "b g k e"]:
        c, d = pooled.shape[-1], x.shape[-1]
        kernel = self.param("kernel", point_init, (c + d, self.features)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        once = pooled.astype(self.dtype) @ kernel[:c] + bias[None, None]
        return x.astype(self.dtype) @ kernel[c:] + once[:, :, None]


class PointTokenizer(nn.Module):
    """A token per group of points: a small PointNet, which does not see the order of a group's points.

    Its two batch norms take their moments over all points of all groups of the batch, hidden ones too.
    """

    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, groups: Float[Array, "b g k 3"], *, train: bool = False) -> Float[Array, "b g d"]:
        linear = partial(dense, dtype=self.dtype, kernel_init=point_init)
        x = linear(LOCAL, "fc1")(groups.astype(self.dtype))
        x = jax.nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(x, train=train))
        x = linear(POINT, "fc2")(x)
        x = AfterPool(WIDE, self.dtype, name="fc3")(largest(x, 2), x)
        x = jax.nn.relu(BatchNorm(dtype=self.dtype, name="norm2")(x, train=train))
        return largest(linear(self.dim, "fc4")(x), 2)


class Place(nn.Module):
    """The position MLP: where a group's centre lies."""

    dim: int
    dtype: Any = jnp.float32
    kernel_init: Initializer = point_init

    @nn.compact
    def __call__(self, centres: Float[Array, "b g 3"]) -> Float[Array, "b g d"]:
        x = dense(PLACE, "fc1", self.dtype, kernel_init=self.kernel_init)(centres.astype(self.dtype))
        return dense(self.dim, "fc2", self.dtype, kernel_init=self.kernel_init)(ACTIVATIONS["gelu"](x))


class PlacedStack(nn.Module):
    """Blocks of which each has the positions added to its input, so that they add up in the residual stream."""

    shape: Transformer

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], place: Float[Array, "b n d"], drop: Float[Array, "b depth 2"] | None = None
    ) -> tuple[Float[Array, "b n d"], tuple[Float[Array, "b n d"], ...]]:
        """Return (the last block's output, every block's output)."""
        drops = None if drop is None else drop.swapaxes(0, 1)
        call = lambda block, x, drop: block(x + place, None, drop)
        return run_blocks(self, partial(Block, self.shape), call, self.shape, x, drops)


class ClassToken(nn.Module):
    """A learned token and its learned position."""

    dim: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "1 1 d"], Float[Array, "1 1 d"]]:
        shape = (1, 1, self.dim)
        return self.param("class_token", point_init, shape), self.param("pos_embed", point_init, shape)


class PointEncoder(nn.Module):
    """Blocks over the visible tokens.

    `Features.parts` has the groups' "centres" [b g 3], and "normed0", ..., every block's group tokens after the last
    norm, which the segmentation of parts reads.

    Attributes:
      classes: names of class tokens, of which one (or none) goes in front: Point-CMAE has one for each of its views.
    """

    shape: Transformer
    classes: Sequence[str] = ()

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b g d"],
        centres: Float[Array, "b g 3"],
        mask: Mask | None = None,
        drop: Float[Array, "b depth 2"] | None = None,
        view: int = 0,
    ) -> Features:
        """Encode what `mask` leaves visible (None: all), in its order; `view`: which of the class tokens."""
        dtype, b = self.shape.compute.dtype, len(tokens)
        if mask is not None:
            tokens, centres = take(tokens, mask), gather(centres, mask.keep_ids)
        x, place = tokens, Place(self.shape.dim, dtype, name="place")(centres)
        own = [ClassToken(self.shape.dim, name=name)() for name in self.classes]
        p = int(bool(own))
        if p:
            wide = [jnp.broadcast_to(y.astype(dtype), (b, 1, self.shape.dim)) for y in own[view]]
            x, place = (jnp.concatenate([y, z], axis=1) for y, z in zip(wide, (x, place)))
        x, hidden = PlacedStack(self.shape, name="blocks")(x, place, drop)
        norm = LayerNorm(self.shape.norm_eps, dtype, name="norm")
        y = norm(x)
        parts = {"centres": centres} | {f"normed{i}": norm(h)[:, p:] for i, h in enumerate(hidden)}
        return Features(
            tokens=x[:, p:], normed=y[:, p:], prefix=y[:, :p], grid=(tokens.shape[1],), hidden=hidden, parts=parts
        )


class PointDecoder(nn.Module):
    """Reads [visible tokens, mask tokens], each with its place, and gives each hidden group its points.

    Attributes:
      points: in a group.
    """

    shape: Transformer
    points: int

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "b v d"],
        centres: Float[Array, "b g 3"],
        mask: Mask,
        drop: Float[Array, "b depth 2"] | None = None,
    ) -> tuple[Float[Array, "b h k 3"], Float[Array, "b g d"]]:
        """Return (the hidden groups' points relative to their centres; every token before the last norm)."""
        s, dtype = self.shape, self.shape.compute.dtype
        b, h = mask.drop_ids.shape
        order = jnp.concatenate([mask.keep_ids, mask.drop_ids], axis=1)
        place = Place(s.dim, dtype, torch_linear, name="place")(gather(centres, order))
        fill = self.param("mask_token", point_init, (1, 1, s.dim)).astype(dtype)
        x = jnp.concatenate([latent.astype(dtype), jnp.broadcast_to(fill, (b, h, s.dim))], axis=1)
        x, _ = PlacedStack(s, name="blocks")(x, place, drop)
        y = LayerNorm(s.norm_eps, dtype, name="norm")(x[:, -h:])
        pred = dense(3 * self.points, "pred", dtype, kernel_init=torch_linear)(y).astype(jnp.float32)
        return pred.reshape(b, h, self.points, 3), x


class Projector(nn.Module):
    """Linear layers with a batch norm, a ReLU and perhaps dropout between them: projection and classification heads.

    Attributes:
      hidden: widths between the layers; out: after the last.
    """

    hidden: Sequence[int]
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], drop: Sequence[Float[Array, "b _"]] = (), *, train: bool = False
    ) -> Float[Array, "b e"]:
        """`drop`: multipliers after each ReLU (0, or 1 / keep probability); (): no dropout."""
        for i, width in enumerate(self.hidden):
            x = dense(width, f"fc{i}", self.dtype, kernel_init=point_init)(x)
            x = jax.nn.relu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train=train))
            x = x * drop[i].astype(x.dtype) if drop else x
        return dense(self.out, f"fc{len(self.hidden)}", self.dtype, kernel_init=point_init)(x)


def tokenizer_flops(groups: int, points: int, dim: int) -> float:
    """FLOPs of `PointTokenizer` on groups of `points` points."""
    n = groups * points
    each = flops.dense(n, 3, LOCAL) + flops.dense(n, LOCAL, POINT) + flops.dense(n, POINT, WIDE)
    return each + flops.dense(groups, POINT, WIDE) + flops.dense(n, WIDE, dim)


def place_flops(n: int, dim: int) -> float:
    """FLOPs of `Place` on n centres."""
    return flops.dense(n, 3, PLACE) + flops.dense(n, PLACE, dim)
