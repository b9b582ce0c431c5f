"""Arrays on a grid <-> rows of patches, for any number of axes: image, volume, video, spectrogram."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from mae_jax.core.errors import UserError


def grid_shape(size: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Number of patches along each axis.

    Raises:
      UserError: a patch that does not divide the size.
    """
    size, patch = tuple(size), tuple(patch)
    if len(size) != len(patch) or any(p < 1 or s < 1 or s % p for s, p in zip(size, patch)):
        fits = [", ".join(str(d) for d in range(1, s + 1) if s % d == 0) for s in size]
        raise UserError(
            f"patch {patch} does not divide size {size}. Each axis needs a divisor: "
            + "; ".join(f"{s} takes {f}" for s, f in zip(size, fits)) + "."
        )  # fmt: skip
    return tuple(s // p for s, p in zip(size, patch))


def patchify(x: Shaped[Array, "b *size c"], patch: Sequence[int]) -> Shaped[Array, "b n pc"]:
    """Cut into patches: tokens in raster order; inside a token the axes in order, channel fastest."""
    batch, *size, channels = x.shape
    grid = grid_shape(size, patch)
    k = len(grid)
    x = x.reshape(batch, *(n for pair in zip(grid, patch) for n in pair), channels)
    x = x.transpose(0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2), 2 * k + 1)
    return x.reshape(batch, math.prod(grid), math.prod(patch) * channels)


def unpatchify(
    tokens: Shaped[Array, "b n pc"], grid: Sequence[int], patch: Sequence[int]
) -> Shaped[Array, "b *size c"]:
    """The inverse of `patchify`."""
    k = len(grid)
    x = tokens.reshape(tokens.shape[0], *grid, *patch, -1)
    x = x.transpose(0, *(axis for i in range(k) for axis in (1 + i, 1 + k + i)), 2 * k + 1)
    return x.reshape(tokens.shape[0], *(g * p for g, p in zip(grid, patch)), x.shape[-1])


# Patches that overlap ---------------------------------------------------------------------------------------------


def overlapped_shape(size: Sequence[int], patch: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Number of patches along each axis where they start every `stride`; what is left at the end is in no patch.

    Raises:
      UserError: a patch larger than the size, or a stride of less than 1.
    """
    if any(p > s or p < 1 or step < 1 for s, p, step in zip(size, patch, stride, strict=True)):
        raise UserError(
            f"patches {tuple(patch)} every {tuple(stride)} do not fit size {tuple(size)}: along each axis a patch of "
            f"at most the size and a stride of at least 1 expected."
        )
    return tuple((s - p) // step + 1 for s, p, step in zip(size, patch, stride))


def patchify_overlapped(
    x: Shaped[Array, "b *size c"], patch: Sequence[int], stride: Sequence[int]
) -> Shaped[Array, "b n pc"]:
    """Patches that start every `stride` along each axis, laid out as `patchify` does."""
    grid = overlapped_shape(x.shape[1:-1], patch, stride)
    k = len(grid)
    for axis, (n, p, step) in enumerate(zip(grid, patch, stride)):
        at = step * np.arange(n)[:, None] + np.arange(p)
        x = jnp.take(x, at, axis=1 + 2 * axis)  # [.., n, p, ..]: the axes before are pairs already
    x = x.transpose(0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2), 2 * k + 1)
    return x.reshape(len(x), math.prod(grid), -1)


def unpatchify_overlapped(
    tokens: Float[Array, "b n pc"], size: Sequence[int], patch: Sequence[int], stride: Sequence[int]
) -> Float[Array, "b *size c"]:
    """The mean of the patches at each place; 0 where there is none."""
    grid = overlapped_shape(size, patch, stride)
    k = len(grid)
    x = tokens.reshape(len(tokens), *grid, *patch, -1)
    x = x.transpose(0, *(axis for i in range(k) for axis in (1 + i, 1 + k + i)), 2 * k + 1)
    for axis, (s, n, p, step) in enumerate(zip(size, grid, patch, stride)):
        at = (step * np.arange(n)[:, None] + np.arange(p)).reshape(-1)
        share = (np.arange(s)[:, None] == at).astype(np.float32)  # [size, n p]
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1.0)
        x = x.reshape(*x.shape[: 1 + axis], n * p, *x.shape[3 + axis :])
        x = jnp.moveaxis(jnp.tensordot(x, share, axes=(1 + axis, 1)), -1, 1 + axis)
    return x
