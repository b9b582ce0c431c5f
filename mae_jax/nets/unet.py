"""SparK's decoder: a feature pyramid made dense, and a small UNet that paints it (SparK, Sec. 3.2)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.nets import flops
from mae_jax.nets.convnet import Active, ConvNet, Map, conv, only, spread
from mae_jax.nets.layers import BatchNorm, LayerNorm, conv_bias, torch_linear
from mae_jax.nets.resnet import norm as batch_norm

mask_token_init = nn.initializers.truncated_normal(0.02, lower=-1.0, upper=1.0)  # cut at +-0.02


class Densify(nn.Module):
    """Fill the holes of every map with its own mask token, and project the map to the decoder's width there.

    Attributes:
      norm: "layer" or "batch", sparse.
      width: channels of the coarsest map; half of it at every finer one.
    """

    norm: Literal["layer", "batch"]
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: tuple[Map, ...], active: Active, train: bool = False) -> tuple[Map, ...]:
        """Maps coarse to fine, 0 where not active -> dense maps, coarse to fine."""
        return tuple(
            DensifyLevel(self.norm, self.width // 2**i, 3 if i else 1, self.dtype, name=f"level{i}")(x, active, train)
            for i, x in enumerate(levels)
        )


class DensifyLevel(nn.Module):
    """One level of `Densify`."""

    norm: Literal["layer", "batch"]
    width: int
    kernel: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Map, active: Active, train: bool) -> Map:
        d = x.shape[-1]
        if self.norm == "batch":
            x = batch_norm(x, active, "norm", self.dtype, train)
        else:
            x = only(LayerNorm(dtype=self.dtype, name="norm")(x), active)
        token = self.param("mask_token", mask_token_init, (1, 1, 1, d))
        x = jnp.where(spread(active, x.shape[1:3]), x, token.astype(x.dtype))
        if self.kernel == 1 and d == self.width:
            return x  # keyu-tian/SparK: no projection where the widths agree (ConvNeXt-S)
        bias_init = conv_bias(self.kernel**2 * d)
        return conv(self.width, self.kernel, "proj", self.dtype, kernel_init=torch_linear, bias_init=bias_init)(x)


class UNetBlock(nn.Module):
    """Twice the resolution: transposed convolution, then two convolutions with batch norm, no activation at the end."""

    dim: int
    out: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Map, train: bool) -> Map:
        # As published: the transposed convolutions, unlike the others, are Kaiming-initialised.
        up_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        x = nn.ConvTranspose(self.dim, (4, 4), (2, 2), dtype=self.dtype, kernel_init=up_init, name="up")(x)
        x = conv(self.dim, 3, "conv1", self.dtype, use_bias=False)(x)
        x = jax.nn.relu6(BatchNorm(dtype=self.dtype, name="bn1")(x, train=train))
        x = conv(self.out, 3, "conv2", self.dtype, use_bias=False)(x)
        return BatchNorm(dtype=self.dtype, name="bn2")(x, train=train)


class UNet(nn.Module):
    """Dense maps, coarse to fine -> the image in float32. Each map is added before the block of its resolution.

    Attributes:
      width: channels of the first block; each block halves them.
      depth: number of blocks, each of which doubles the resolution.
      channels: of the image.
    """

    width: int
    depth: int
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[Map, ...], train: bool = False) -> Float[Array, "b h w channels"]:
        x = maps[0]
        for i in range(self.depth):
            x = x + maps[i] if 0 < i < len(maps) else x
            x = UNetBlock(self.width // 2**i, self.width // 2 ** (i + 1), self.dtype, name=f"block{i}")(x, train)
        return conv(self.channels, 1, "proj", self.dtype)(x).astype(jnp.float32)


def decoder_flops(encoder: ConvNet, width: int, depth: int, pixels: int, channels: int) -> float:
    """`Densify` and `UNet` of these sizes on one image of so many pixels."""
    n = pixels // encoder.stride**2
    total = flops.conv(pixels, 1, width // 2**depth, channels)
    for i, dim in enumerate(reversed(encoder.dims)):
        if i or dim != width:
            total += flops.conv(n * 4**i, 3 if i else 1, dim, width // 2**i)
    for i in range(depth):
        dim, m = width // 2**i, n * 4 ** (i + 1)
        total += flops.conv(m // 4, 4, dim, dim) + flops.conv(m, 3, dim, dim) + flops.conv(m, 3, dim, dim // 2)
    return total
