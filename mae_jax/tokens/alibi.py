"""2-D ALiBi: attention that fades with the distance on the grid, in the place of position embeddings (CROMA).

The bias is arithmetic on the tokens' coordinates, so that masked sequences need no table of all pairs and no gather.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def slopes(heads: int) -> np.ndarray:
    """Return how fast each head's attention fades, float64 [heads] (Press et al. 2022, Sec. 3).

    r, r^2, ..., r^heads with r = 2^(-8 / heads) for a power of two; otherwise those of the next lower power of two m,
    then every second one of 2 m heads.
    """
    m = 1 << (heads.bit_length() - 1)
    steps = np.arange(1, m + 1)
    first = 2.0 ** (-8 * steps / m)
    return first if m == heads else np.concatenate([first, slopes(2 * m)[::2][: heads - m]])


def bias(
    heads: int, grid: tuple[int, ...], queries: Int[Array, "b q"], keys: Int[Array, "b k"]
) -> Float[Array, "b heads q k"]:
    """-slope * Euclidean distance, in patches, between the tokens at `queries` and at `keys` (raster positions)."""
    columns = grid[1]
    rows_apart = (queries // columns)[:, :, None] - (keys // columns)[:, None, :]
    columns_apart = (queries % columns)[:, :, None] - (keys % columns)[:, None, :]
    distance = jnp.sqrt((rows_apart**2 + columns_apart**2).astype(jnp.float32))
    return -jnp.asarray(slopes(heads), jnp.float32)[None, :, None, None] * distance[:, None]


def full_bias(heads: int, grid: tuple[int, ...]) -> Float[Array, "1 heads n n"]:
    """`bias` between all tokens of a grid."""
    ids = jnp.arange(math.prod(grid))[None]
    return bias(heads, grid, ids, ids)
