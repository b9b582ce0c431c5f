"""Frozen tokenizers: an image in [0, 1] -> logits over a vocabulary for every patch; its code is their argmax."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.nets import flops
from mae_jax.tokens.grid import patchify


class DalleBlock(nn.Module):
    """identity or 1x1 convolution, plus a bottleneck of four convolutions times `gain`."""

    width: int
    gain: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        y = x
        for i, (width, kernel) in enumerate([(self.width // 4, 3)] * 3 + [(self.width, 1)], start=1):
            y = _conv(width, kernel, f"conv_{i}", self.dtype)(nn.relu(y))
        if x.shape[-1] != self.width:
            x = _conv(self.width, 1, "identity", self.dtype)(x)
        return x + self.gain * y


class DalleEncoder(nn.Module):
    """The encoder of DALL-E's discrete VAE (Ramesh et al. 2021, Appendix A.1): a code for each 8 x 8 pixels.

    Attributes:
      vocab, width: number of codes; channels of the first of four groups, which have 1, 2, 4, 8 times as many.
      depth: blocks per group.
      dtype: of the convolutions but the last, which runs in float32 (the authors' run in float16 on a GPU).
    """

    vocab: int = 8192
    width: int = 256
    depth: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b n vocab"]:
        x = _conv(self.width, 7, "input", self.dtype)(0.8 * image + 0.1)  # its logit-Laplace likelihood avoids 0 and 1
        for group, width in enumerate(self._widths, start=1):
            for i in range(1, self.depth + 1):
                x = DalleBlock(width, (4 * self.depth) ** -2, self.dtype, name=f"group_{group}_block_{i}")(x)
            if group < 4:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = _conv(self.vocab, 1, "output", jnp.float32)(nn.relu(x))
        return x.reshape(x.shape[0], -1, self.vocab)

    def flops(self, pixels: int) -> float:
        """Of one image."""
        total = flops.conv(pixels, 7, 3, self.width)
        before = self.width
        for group, width in enumerate(self._widths):
            n, narrow = pixels // 4**group, width // 4
            for i in range(self.depth):
                d = before if i == 0 else width
                total += flops.conv(n, 3, d, narrow) + 2 * flops.conv(n, 3, narrow, narrow)
                total += flops.conv(n, 1, narrow, width) + (flops.conv(n, 1, d, width) if d != width else 0)
            before = width
        return total + flops.conv(pixels // 64, 1, before, self.vocab)

    @property
    def smallest(self) -> tuple[int, ...]:
        """Shape of the smallest image that it reads."""
        return (8, 8, 3)

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(self.width * m for m in (1, 2, 4, 8))


class KMeans(nn.Module):
    """The code of a patch is the nearest of `vocab` centroids in raw pixels: a tokenizer for small experiments."""

    vocab: int
    patch: tuple[int, ...]
    channels: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b n vocab"]:
        x = patchify(image, self.patch)
        shape = (self.vocab, math.prod(self.patch) * self.channels)
        centroids = self.param("centroids", nn.initializers.normal(), shape)
        # -|x - c|^2 / 2 up to |x|^2 / 2, which is the same for all codes
        products = jnp.matmul(x, centroids.T, precision="highest")
        return products - (jnp.square(centroids).sum(axis=1) / 2)[None, None]

    def flops(self, pixels: int) -> float:
        """Of one image."""
        return flops.dense(1, pixels * self.channels, self.vocab)

    @property
    def smallest(self) -> tuple[int, ...]:
        """Shape of the smallest image that it reads."""
        return (*self.patch, self.channels)


def _conv(width: int, kernel: int, name: str, dtype: Any) -> nn.Module:
    return nn.Conv(width, (kernel, kernel), padding="SAME", dtype=dtype, name=name)
