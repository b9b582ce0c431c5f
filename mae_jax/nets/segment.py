"""Heads that give every pixel a class: linear on patch tokens, and UperNet on a pyramid of maps."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.nets.convnet import Map, conv
from mae_jax.nets.layers import BatchNorm, dense, gelu

he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # mmcv's ConvModule
head_init = nn.initializers.normal(0.01)  # mmseg's conv_seg
POOLS = (1, 2, 3, 6)  # bins along each side of the pooled maps (PSPNet)


class LinearSegmenter(nn.Module):
    """Batch norm and one linear layer per token: the probe of frozen features (DINOv2, Sec. 7.4).

    Attributes:
      classes: number of classes.
      affine: whether the batch norm has a scale and an offset.
    """

    classes: int
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w d"], *, train: bool = False) -> Float[Array, "b h w classes"]:
        x = BatchNorm(affine=self.affine, name="norm")(x, train=train)
        return dense(self.classes, "classify", jnp.float32, kernel_init=head_init)(x)


class Simple(nn.Module):
    """Four maps out of four of a plain ViT, all of one resolution: 4 x, 2 x, 1 x and 1/2 of it (BEiT, Appendix).

    BEiT's: two transposed convolutions with batch norm and GELU between them, one, nothing, max pooling.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Map], *, train: bool = False) -> tuple[Map, ...]:
        """Four maps, shallow to deep -> fine to coarse."""
        a, b, c, d = maps
        up = lambda x, name: nn.ConvTranspose(x.shape[-1], (2, 2), (2, 2), dtype=self.dtype, name=name)(x)
        a = up(a, "up0_first")
        a = gelu(BatchNorm(dtype=self.dtype, name="up0_norm")(a, train=train))
        a = up(a, "up0_second")
        return a, up(b, "up1"), c, nn.max_pool(d, (2, 2), (2, 2), [(0, n % 2) for n in d.shape[1:3]])


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    features: int
    kernel: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Map, *, train: bool) -> Map:
        x = conv(self.features, self.kernel, "conv", self.dtype, use_bias=False, kernel_init=he)(x)
        return jax.nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train=train))


class UperNet(nn.Module):
    """UperNet's decoder (Xiao et al., 2018): pyramid pooling on the coarsest map, an FPN over all, one fused map.

    Attributes:
      classes: number of classes.
      channels: of every map inside (512).
      drop: of channels before the last layer (0.1).
    """

    classes: int
    channels: int = 512
    drop: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Sequence[Map], noise: Float[Array, "b channels"] | None = None, *, train: bool = False
    ) -> Float[Array, "b h w classes"]:
        """Maps, fine to coarse -> logits at the finest one's resolution, float32.

        Args:
          noise: U[0, 1) per sample and channel, for dropout; None: nothing is dropped.
        """
        block = functools.partial(ConvNorm, self.channels, dtype=self.dtype)
        top = maps[-1]
        size = top.shape[1:3]
        pooled = [resized(block(1, name=f"pool{bins}")(adaptive_mean(top, bins), train=train), size) for bins in POOLS]
        laterals = [block(1, name=f"lateral{i}")(x, train=train) for i, x in enumerate(maps[:-1])]
        laterals.append(block(3, name="bottleneck")(jnp.concatenate([top, *pooled], axis=-1), train=train))
        for i in reversed(range(len(laterals) - 1)):
            laterals[i] = laterals[i] + resized(laterals[i + 1], laterals[i].shape[1:3])
        size = laterals[0].shape[1:3]
        fused = [block(3, name=f"fpn{i}")(x, train=train) for i, x in enumerate(laterals[:-1])] + [laterals[-1]]
        x = block(3, name="fuse")(jnp.concatenate([resized(f, size) for f in fused], axis=-1), train=train)
        return classify(x, self.classes, self.drop, noise)


class FCN(nn.Module):
    """The auxiliary head: a 3 x 3 convolution and a classifier on one map (Long et al., 2015; mmseg's FCNHead)."""

    classes: int
    channels: int = 256
    drop: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Map, noise: Float[Array, "b channels"] | None = None, *, train: bool = False
    ) -> Float[Array, "b h w classes"]:
        x = ConvNorm(self.channels, 3, self.dtype, name="conv")(x, train=train)
        return classify(x, self.classes, self.drop, noise)


def classify(x: Map, classes: int, drop: float, noise: Float[Array, "b c"] | None) -> Float[Array, "b h w classes"]:
    """Whole channels dropped by `noise`, then a linear layer per pixel in float32. For use inside a module."""
    x = x.astype(jnp.float32)
    if noise is not None and drop:
        x = x * jnp.where(noise >= drop, 1 / (1 - drop), 0.0)[:, None, None, :]
    return dense(classes, "classify", jnp.float32, kernel_init=head_init)(x)


def resized(x: Map, size: tuple[int, ...]) -> Map:
    """Bilinear between the centres of pixels (torch: align_corners=False), without antialiasing."""
    if x.shape[1:3] == tuple(size):
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "linear", antialias=False)


def adaptive_mean(x: Map, bins: int) -> Map:
    """Means over bins x bins boxes from floor(i n / bins) to ceil((i + 1) n / bins) (torch: AdaptiveAvgPool2d)."""
    rows, columns = (jnp.asarray(_bins(n, bins), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


@functools.cache
def _bins(n: int, bins: int) -> np.ndarray:
    """Averaging matrix [bins, n]."""
    out = np.zeros((bins, n), np.float32)
    for i in range(bins):
        start, stop = i * n // bins, -(-(i + 1) * n // bins)
        out[i, start:stop] = 1 / (stop - start)
    return out
