"""Position tables: fixed sine-cosine tables for any number of axes, and their resampling to another grid.

Tables are host constants: computed in float64 and handed over in float32, one row per token in raster order.
"""

import math
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError

Order = Literal["column", "row"]
Array = TypeVar("Array", np.ndarray, jax.Array)


def sincos(dim: int, grid: tuple[int, ...], *, first: Order = "column", transposed: bool = False) -> np.ndarray:
    """Return the fixed sine-cosine table [n, dim] float32 of a grid, n = prod(grid), tokens in raster order.

    The channels are shared equally between the axes of the grid. An axis's share of size s holds
    sin(pos * w_k), k = 0..s/2-1, then cos(pos * w_k), with w_k = 10000 ** (-k / (s/2)) and pos the token's
    index along that axis.

    `first="column"` gives the first share to the last axis (MAE: the first half of the channels encodes the
    column, the second half the row; facebookresearch/mae, util/pos_embed.py); `first="row"` gives it to the
    first axis (CAE).

    `transposed` makes the table of the grid with its axes in reverse order: of (rows, columns), token n
    gets the position (n // rows, n % rows) (Audio-MAE, Bird-MAE).

    Raises UserError where `dim` cannot be split into sine-cosine pairs for every axis (2-D: dim must be a
    multiple of 4).
    """
    grid = grid[::-1] if transposed else grid
    axes = len(grid)
    if dim <= 0 or dim % (2 * axes):
        raise UserError(
            f"A sine-cosine position table of a {axes}-D grid needs a width that is a positive multiple of "
            f"{2 * axes} (a sine and a cosine for each axis), but the width is {dim}."
        )
    if first not in ("column", "row"):
        raise ValueError(f"first must be 'column' (MAE) or 'row' (CAE), not {first!r}.")
    share = dim // axes
    coordinates = np.indices(grid, dtype=np.float64).reshape(axes, -1)  # [axes, n]
    if first == "column":
        coordinates = coordinates[::-1]
    frequencies = 10000.0 ** (-np.arange(share // 2, dtype=np.float64) / (share / 2))
    angles = coordinates[:, :, None] * frequencies  # [axes, n, share/2]
    parts = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)  # [axes, n, share]
    return np.concatenate(list(parts), axis=-1).astype(np.float32)


def flat_sincos(dim: int, n: int) -> np.ndarray:
    """Return the fixed table [n, dim] float32 of tokens counted through, whatever the axes of their grid (VideoMAE).

    Sine and cosine alternate, as in "Attention is all you need": channel j of token i holds sin (even j) or cos (odd j)
    of i / 10000^(2 floor(j / 2) / dim).

    Raises UserError where `dim` is odd.
    """
    halves = sincos(dim, (n,))
    return np.stack([halves[:, : dim // 2], halves[:, dim // 2 :]], axis=2).reshape(n, dim)


def with_prefix(table: np.ndarray, n: int) -> np.ndarray:
    """Return [n + tokens, dim]: `n` zero rows (class and register tokens carry no position) before the
    table.
    """
    return np.concatenate([np.zeros((n, table.shape[-1]), table.dtype), table], axis=0)


def bicubic_matrix(old: int, new: int) -> np.ndarray:
    """Return the [new, old] float64 matrix that resamples one axis the way torch's bicubic interpolation
    does.

    Keys' cubic kernel with a = -0.75, half-pixel centres, no antialiasing when shrinking, edge values
    repeated. `jax.image.resize(..., "cubic")` uses a = -0.5 and antialiases, so it gives other numbers.
    """
    a = -0.75
    source = (np.arange(new) + 0.5) * (old / new) - 0.5
    base = np.floor(source).astype(int)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        distance = np.abs(source - (base + tap))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (np.arange(new), np.clip(base + tap, 0, old - 1)), weights)
    return matrix


def interpolate(table: Array, old_grid: tuple[int, ...], new_grid: tuple[int, ...], prefix: int = 0) -> Array:
    """Return a position table resampled from one grid to another, as torch's bicubic does (see
    `bicubic_matrix`).

    table: [..., prefix + prod(old_grid), dim], numpy or jax (differentiable) -> [..., prefix +
      prod(new_grid), dim],
    of the same kind and dtype. The first `prefix` rows (class token, registers) pass through untouched.

    Raises ValueError where the table's rows do not match `prefix` and `old_grid`, or the grids differ in
    rank.
    """
    old_grid, new_grid = tuple(old_grid), tuple(new_grid)
    rows, expected = table.shape[-2], prefix + math.prod(old_grid)
    if rows != expected or len(old_grid) != len(new_grid):
        raise ValueError(
            f"A position table of {rows} rows cannot be resampled from grid {old_grid} with {prefix} prefix "
            f"rows ({expected} rows expected) to grid {new_grid}: give the table's own grid and a new one of "
            f"the same rank."
        )
    if old_grid == new_grid:
        return table
    head, body = table[..., :prefix, :], table[..., prefix:, :]
    lead, dim = body.shape[:-2], body.shape[-1]
    body = body.reshape(*lead, *old_grid, dim)
    for axis, (old, new) in enumerate(zip(old_grid, new_grid)):
        body = _resample(body, bicubic_matrix(old, new), len(lead) + axis)
    body = body.reshape(*lead, math.prod(new_grid), dim).astype(table.dtype)
    stack = np.concatenate if isinstance(table, np.ndarray) else jnp.concatenate
    return stack([head, body], axis=-2)


def _resample(x, matrix: np.ndarray, axis: int):
    """Contract `axis` of x with the columns of `matrix`; the axis keeps its place."""
    if isinstance(x, np.ndarray):
        return np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    weights = jnp.asarray(matrix, x.dtype)
    return jnp.moveaxis(jnp.tensordot(weights, x, axes=(1, axis), precision="highest"), 0, axis)
