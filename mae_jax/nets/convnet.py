"""Convolutional encoders that can leave places out: what ConvNeXt and ResNet share.

A sparse layer is the dense operation followed by zeros wherever nothing is visible (SparK, Sec. 3.1). `active` says
what is visible on the coarsest grid of the network, [b, rows, columns, 1], True = visible; None: everything, which is
the ordinary dense network. There is no saving of computation in it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mae_jax.nets import flops
from mae_jax.nets.compute import Compute
from mae_jax.nets.layers import Initializer
from mae_jax.nets.remat import policy

Map = Float[Array, "b _h _w _c"]  # a function may change all but the batch
Active = Bool[Array, "b rows columns 1"]

normal = nn.initializers.normal(0.02)  # ConvNeXt's; torch's trunc_normal_(std=.02) cuts at +-2, 100 deviations


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """The shape of a convolutional encoder, and how it runs.

    `compute.scan` does nothing here: the blocks of a network are of several shapes.

    Attributes:
      arch: "convnext" (layer norm, depthwise 7 x 7) or "resnet" (batch norm).
      dims, depths: channels and number of blocks of each stage; every stage but the first halves the resolution.
      stem_stride: of what comes before the first stage: 4 as published; a ResNet's 2 leaves the max pooling out.
      stem_dim: channels of a ResNet's stem.
      block: of a ResNet: "bottleneck" (1 x 1, 3 x 3, 1 x 1, inner channels dim / 4) or "basic" (3 x 3, 3 x 3).
      layer_scale: what ConvNeXt's factors `gamma` start from.
    """

    arch: Literal["convnext", "resnet"]
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    stem_stride: int = 4
    stem_dim: int = 64
    block: Literal["bottleneck", "basic"] = "bottleneck"
    layer_scale: float = 1e-6
    compute: Compute = Compute()

    @property
    def stride(self) -> int:
        """Of the coarsest map: what a mask's patch must be."""
        return self.stem_stride * 2 ** (len(self.dims) - 1)

    def flops(self, pixels: int, channels: int) -> float:
        """Forward pass of one image of so many pixels; what is hidden costs as much as what is seen."""
        n = pixels // self.stem_stride**2
        if self.arch == "convnext":
            total = flops.conv(n, self.stem_stride, channels, self.dims[0])
        else:
            total = flops.conv(pixels // 4, 7, channels, self.stem_dim)
        before = self.dims[0] if self.arch == "convnext" else self.stem_dim
        for i, (dim, depth) in enumerate(zip(self.dims, self.depths)):
            fine, n = n, n // (4 if i else 1)
            if self.arch == "convnext":
                total += flops.conv(n, 2, before, dim) if i else 0.0
                total += depth * (flops.conv(n, 7, dim, dim, groups=dim) + 2 * flops.dense(n, dim, 4 * dim))
            else:
                total += sum(self._block_flops(before if j == 0 else dim, dim, fine if j == 0 else n, n)
                             for j in range(depth))  # fmt: skip
            before = dim
        return total

    def _block_flops(self, before: int, dim: int, fine: int, n: int) -> float:
        """A ResNet's block from `fine` positions to n."""
        shortcut = flops.dense(n, before, dim) if before != dim or fine != n else 0.0
        if self.block == "basic":
            return flops.conv(n, 3, before, dim) + flops.conv(n, 3, dim, dim) + shortcut
        inner = dim // 4
        return flops.dense(fine, before, inner) + flops.conv(n, 3, inner, inner) + flops.dense(n, inner, dim) + shortcut


def spread(active: Active, size: tuple[int, ...]) -> Bool[Array, "b h w 1"]:
    """`active` at the resolution of a map: each cell repeated (nearest)."""
    rows, columns = (n // cells for n, cells in zip(size, active.shape[1:3]))
    return jnp.repeat(jnp.repeat(active, rows, axis=1), columns, axis=2)


def only(x: Map, active: Active | None) -> Map:
    """x where it is active, 0 elsewhere."""
    return x if active is None else jnp.where(spread(active, x.shape[1:3]), x, jnp.zeros((), x.dtype))


def conv(
    features: int,
    kernel: int,
    name: str,
    dtype: Any,
    *,
    stride: int = 1,
    groups: int = 1,
    use_bias: bool = True,
    kernel_init: Initializer = normal,
    bias_init: Initializer = nn.initializers.zeros,
) -> nn.Conv:
    """A convolution that keeps the size, or divides it by `stride`; an even kernel cuts patches without overlap."""
    pad = kernel // 2 if kernel % 2 else 0
    return nn.Conv(
        features, (kernel, kernel), stride, [(pad, pad)] * 2, feature_group_count=groups, use_bias=use_bias,
        dtype=dtype, kernel_init=kernel_init, bias_init=bias_init, name=name,
    )  # fmt: skip


class Blocks(nn.Module):
    """The blocks of one stage, "0", "1", ...

    Attributes:
      block: (its number, name=) -> the block, a module of (x, active, drop [b]).
    """

    depth: int
    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Map, active: Active | None = None, drop: Float[Array, "b depth"] | None = None) -> Map:
        for j in range(self.depth):
            x = self.block(j, name=str(j))(x, active, None if drop is None else drop[:, j])
        return x


def remat(block: type[nn.Module], compute: Compute) -> Any:
    """The block as `compute.remat` says: as it is, or computed again in the backward pass."""
    return block if compute.remat == "none" else nn.remat(block, policy=policy(compute))
