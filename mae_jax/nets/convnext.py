"""ConvNeXt (Liu et al., 2022, arXiv 2201.03545), dense or sparse."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.mesh import shard
from mae_jax.nets.block import ACTIVATIONS
from mae_jax.nets.convnet import Active, Blocks, ConvNet, Map, conv, normal, only, remat
from mae_jax.nets.layers import LayerNorm, dense


class Block(nn.Module):
    """x + gamma * MLP(norm(depthwise 7 x 7(x))) (Fig. 4)."""

    shape: ConvNet
    dim: int

    @nn.compact
    def __call__(self, x: Map, active: Active | None = None, drop: Float[Array, " b"] | None = None) -> Map:
        dtype = self.shape.compute.dtype
        x = shard(x)
        y = only(conv(self.dim, 7, "dwconv", dtype, groups=self.dim)(x), active)
        y = LayerNorm(dtype=dtype, name="norm")(y)
        y = ACTIVATIONS["gelu"](dense(4 * self.dim, "pwconv1", dtype, kernel_init=normal)(y))
        y = dense(self.dim, "pwconv2", dtype, kernel_init=normal)(y)
        gamma = self.param("gamma", nn.initializers.constant(self.shape.layer_scale), (self.dim,))
        y = only(y * gamma[None, None, None].astype(dtype), active)  # biases have filled the holes since the conv
        return x + (y if drop is None else y * drop[:, None, None, None].astype(dtype))


class ConvNeXt(nn.Module):
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
          train: changes nothing here: no statistics.
        """
        s, dtype = self.shape, self.shape.compute.dtype
        block = remat(Block, s.compute)
        levels: list[Map] = []
        x, first = image, 0
        for i, (dim, depth) in enumerate(zip(s.dims, s.depths)):
            norm = LayerNorm(dtype=dtype, name=f"stage{i}_norm")
            if i == 0:
                x = conv(dim, s.stem_stride, "stage0_conv", dtype, stride=s.stem_stride)(x)
                x = only(norm(only(x, active)), active)
            else:
                x = only(conv(dim, 2, f"stage{i}_conv", dtype, stride=2)(only(norm(x), active)), active)
            make = lambda _, name, dim=dim: block(s, dim, name=name)
            own = None if drop is None else drop[:, first : first + depth]
            x = Blocks(depth, make, name=f"stage{i}_blocks")(x, active, own)
            levels, first = [x, *levels], first + depth
        return tuple(levels)


class Classifier(nn.Module):
    """The dense network with a head: mean over the coarsest map, norm, linear."""

    shape: ConvNet
    classes: int

    @nn.compact
    def __call__(
        self, image: Map, drop: Float[Array, "b depth"] | None = None
    ) -> tuple[Float[Array, "b classes"], Float[Array, "b d"]]:
        """Return (logits, the pooled features that the head reads)."""
        coarsest = ConvNeXt(self.shape, name="encoder")(image, None, drop)[0]
        pooled = LayerNorm(name="norm")(coarsest.astype(jnp.float32).mean(axis=(1, 2)))
        return dense(self.classes, "head", jnp.float32, kernel_init=normal)(pooled), pooled
