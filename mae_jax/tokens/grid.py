"""Arrays on a grid <-> rows of patches, for any number of axes: image, volume, video, spectrogram."""

import math
from collections.abc import Sequence

from jaxtyping import Array, Shaped

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
