"""Exact turns and reflections, each sample by its own draw, of images [b, h, w, c] and volumes [b, d, h, w, c]."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


def reverse(x: Shaped[Array, "b *s"], axis: int, hit: Bool[Array, " b"]) -> Shaped[Array, "b *s"]:
    """Those samples that are `hit`, reversed along `axis`."""
    return jnp.where(per_sample(hit, x.ndim), jnp.flip(x, axis), x)


def turn(x: Shaped[Array, "b *s"], axes: tuple[int, int], quarters: Int[Array, " b"]) -> Shaped[Array, "b *s"]:
    """Each sample turned by its number of quarter turns (0..3) in the plane of `axes`, which must be equally long.

    The sense is np.rot90's: from the first axis towards the second.
    """
    x = jnp.where(per_sample(quarters % 2 == 1, x.ndim), jnp.swapaxes(x, *axes), x)
    x = reverse(x, axes[0], (quarters == 1) | (quarters == 2))
    return reverse(x, axes[1], (quarters == 2) | (quarters == 3))


def per_sample(value: Shaped[Array, " b"], ndim: int) -> Shaped[Array, "b *ones"]:
    """[b] -> [b, 1, ..., 1] of so many dimensions."""
    return value.reshape(value.shape + (1,) * (ndim - 1))


def upto(u: Float[Array, " b"], count: int) -> Int[Array, " b"]:
    """A whole number uniform in 0..count-1, from u in [0, 1)."""
    return jnp.minimum(jnp.floor(u * count), count - 1).astype(jnp.int32)
