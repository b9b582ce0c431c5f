"""The head that gives every point of a cloud a part (Point-MAE's segmentation, after PointNet++)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.nets.layers import BatchNorm, dense, largest, torch_linear
from mae_jax.nets.point import AfterPool
from mae_jax.tokens.points import interpolation

HIDDEN = (512, 256)  # of the last layers
LEVEL = 1024  # of the points' own features
CATEGORY = 64  # of a category's embedding


class PartHead(nn.Module):
    """Tokens of several blocks, carried to the points by their 3 nearest centres; the cloud's category is given.

    A point's features (interpolated tokens beside its place, two layers), and for the whole cloud the largest and the
    mean token and the category's embedding, go through three layers. Batch norms and ReLUs throughout.
    """

    categories: int
    parts: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        points: Float[Array, "b n 3"],
        centres: Float[Array, "b g 3"],
        tokens: Float[Array, "b g d"],
        category: Int[Array, " b"],
        wide: int,
        drop: Float[Array, "b n w"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b n parts"]:
        """Logits. `wide`: width of the first layer on points; `drop`: multipliers after the first of three."""
        linear = partial(dense, dtype=self.dtype, kernel_init=torch_linear)
        norm = lambda x, name: BatchNorm(dtype=self.dtype, name=name)(x, train=train)
        x = interpolation(points, centres).astype(self.dtype) @ tokens.astype(self.dtype)
        x = jnp.concatenate([points.astype(self.dtype), x], axis=-1)
        for i, width in enumerate((wide, LEVEL)):
            x = jax.nn.relu(norm(linear(width, f"point{i}")(x), f"point_norm{i}"))
        known = jax.nn.one_hot(category, self.categories, dtype=self.dtype)
        known = norm(linear(CATEGORY, "category", use_bias=False)(known), "category_norm")
        pooled = [largest(tokens, 1), tokens.mean(axis=1), jax.nn.leaky_relu(known, 0.2)]
        cloud = jnp.concatenate([y.astype(self.dtype) for y in pooled], axis=-1)
        y = AfterPool(HIDDEN[0], self.dtype, name="fc0")(cloud[:, None], x[:, None])[:, 0]
        y = jax.nn.relu(norm(y, "norm0"))
        y = y if drop is None else y * drop.astype(y.dtype)
        y = jax.nn.relu(norm(linear(HIDDEN[1], "fc1")(y), "norm1"))
        return linear(self.parts, "fc2")(y).astype(jnp.float32)


def thirds(depth: int) -> Sequence[int]:
    """The last block of each third of `depth` blocks: (3, 7, 11) of 12."""
    return tuple(max(0, (i + 1) * depth // 3 - 1) for i in range(3))
