"""ResNet (He et al., 2015, arXiv 1512.03385; v1.5: the 3 x 3 convolution has the stride), dense or sparse."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from mae_jax.core.mesh import shard
from mae_jax.nets.convnet import Active, Blocks, ConvNet, Map, conv, only, remat, spread
from mae_jax.nets.layers import BatchNorm, Initializer

kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def norm(
    x: Map, active: Active | None, name: str, dtype: Any, train: bool, scale_init: Initializer = nn.initializers.ones
) -> Map:
    """Batch norm whose statistics are of the active positions of the whole batch, 0 elsewhere."""
    valid = None if active is None else spread(active, x.shape[1:3])[..., 0]
    return only(BatchNorm(dtype=dtype, scale_init=scale_init, name=name)(x, valid, train=train), active)


class Block(nn.Module):
    """relu(shortcut(x) + branch(x)): "basic" or "bottleneck" (Fig. 5)."""

    shape: ConvNet
    dim: int
    stride: int
    train: bool

    @nn.compact
    def __call__(self, x: Map, active: Active | None = None, drop: Float[Array, " b"] | None = None) -> Map:
        dtype, dim, inner = self.shape.compute.dtype, self.dim, self.dim // 4
        bottleneck = [(inner, 1, 1), (inner, 3, self.stride), (dim, 1, 1)]
        layers = bottleneck if self.shape.block == "bottleneck" else [(dim, 3, self.stride), (dim, 3, 1)]
        x = y = shard(x)
        for i, (features, kernel, stride) in enumerate(layers, 1):
            y = _conv(features, kernel, f"conv{i}", dtype, stride)(y)
            last = i == len(layers)
            # timm: the last norm starts at 0, so that a block starts as its shortcut.
            init = nn.initializers.zeros if last else nn.initializers.ones
            y = norm(only(y, active), active, f"bn{i}", dtype, self.train, init)
            y = y if last else jax.nn.relu(y)
        if self.stride > 1 or x.shape[-1] != dim:
            x = only(_conv(dim, 1, "shortcut", dtype, self.stride)(x), active)
            x = norm(x, active, "shortcut_bn", dtype, self.train)
        return jax.nn.relu(x + (y if drop is None else y * drop[:, None, None, None].astype(dtype)))


class ResNet(nn.Module):
    """The feature pyramid of an image."""

    shape: ConvNet

    @nn.compact
    def __call__(
        self,
        image: Map,
        active: Active | None = None,
        drop: Float[Array, "b depth"] | None = None,
        train: bool = False,
    ) -> tuple[Map, ...]:
        """Return the stages' outputs, coarse to fine.

        Args:
          active: which cells of the coarsest grid are visible (nets/convnet.py); the image must be 0 elsewhere.
          drop: multiplier of every block's branch (nets/block.py: drop_path).
          train: batch norms take the batch's statistics, else the running ones.
        """
        s, dtype = self.shape, self.shape.compute.dtype
        x = only(_conv(s.stem_dim, 7, "conv1", dtype, 2)(image), active)
        x = jax.nn.relu(norm(x, active, "bn1", dtype, train))
        if s.stem_stride == 4:
            x = only(nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)]), active)  # the holes' zeros lose: x >= 0
        levels: list[Map] = []
        first = 0
        block = remat(Block, s.compute)
        for i, (dim, depth) in enumerate(zip(s.dims, s.depths)):
            make = lambda j, name, i=i, dim=dim: block(s, dim, 2 if i and not j else 1, train, name=name)
            own = None if drop is None else drop[:, first : first + depth]
            x = Blocks(depth, make, name=f"stage{i}_blocks")(x, active, own)
            levels, first = [x, *levels], first + depth
        return tuple(levels)


def _conv(features: int, kernel: int, name: str, dtype: Any, stride: int) -> nn.Conv:
    return conv(features, kernel, name, dtype, stride=stride, use_bias=False, kernel_init=kaiming)
