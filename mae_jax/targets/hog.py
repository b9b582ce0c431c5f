"""Histograms of oriented gradients (Dalal and Triggs, 2005) as targets: MaskFeat's, and the parts of others'.

Everywhere: unsigned orientations, hard bins, every channel by itself, [b, h, w, c] -> [b, rows, columns, c, bins].
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def central(image: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
    """Differences of the two neighbours down the rows and along the columns, not halved, 0 at the border.

    As scikit-image and DMJD have them.
    """
    rows = jnp.pad(image[:, 2:] - image[:, :-2], ((0, 0), (1, 1), (0, 0), (0, 0)))
    columns = jnp.pad(image[:, :, 2:] - image[:, :, :-2], ((0, 0), (0, 0), (1, 1), (0, 0)))
    return rows, columns


def sobel(image: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
    """Sobel's differences down the rows and along the columns, the image reflected at its border."""
    x = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    rows, columns = x[:, 2:] - x[:, :-2], x[:, :, 2:] - x[:, :, :-2]
    return (
        rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:],
        columns[:, :-2] + 2 * columns[:, 1:-1] + columns[:, 2:],
    )


def histograms(
    y: Float[Array, "b h w c"], x: Float[Array, "b h w c"], cell: int, bins: int = 9
) -> Float[Array, "b rows columns c bins"]:
    """The gradients' magnitudes summed over each cell, by orientation: bin floor(bins atan2(y, x) / pi) mod bins.

    Args:
      y, x: the gradient's two parts; which of them is the row's sets from where angles count.
      cell: side of a cell in pixels, which must divide the image.
    """
    b, height, width, c = x.shape
    # Divided before it is multiplied: -pi must come out as exactly -bins, which is bin 0.
    bin_of = jnp.floor(jnp.arctan2(y, x) / jnp.float32(math.pi) * bins).astype(jnp.int32) % bins
    in_bin = bin_of[..., None] == jnp.arange(bins).reshape(1, 1, 1, 1, bins)
    votes = jnp.where(in_bin, jnp.hypot(y, x)[..., None], 0.0)
    return votes.reshape(b, height // cell, cell, width // cell, cell, c, bins).sum(axis=(2, 4))


def maskfeat(image: Float[Array, "b h w c"], patch: int, cell: int = 8, bins: int = 9) -> Float[Array, "b n target"]:
    """MaskFeat's target (Wei et al., 2022, Sec. 3.2; facebookresearch/SlowFast): the histograms of each token's cells.

    Sobel gradients of the image as the network sees it, angles from the row's axis, each histogram of unit length.

    Returns:
      [b, n, c bins (patch / cell)^2], in the authors' order: the channel slowest, then the bin, then the cell.
    """
    rows, columns = sobel(image)
    found = histograms(columns, rows, cell, bins)
    found = found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
    b, down, across, c, _ = found.shape
    side = patch // cell
    cells = found.reshape(b, down // side, side, across // side, side, c, bins)
    return cells.transpose(0, 1, 3, 5, 6, 2, 4).reshape(b, (down // side) * (across // side), c * bins * side * side)
