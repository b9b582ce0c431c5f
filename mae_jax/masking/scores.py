"""Score fields: what each masking strategy says of every token. The lowest are kept (select.py)."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.distances import squared_distances
from mae_jax.core.keys import Context
from mae_jax.masking.select import invert


def random(ctx: Context, batch: int, n: int, name: str = "mask") -> Float[Array, "b n"]:
    """Independent U[0, 1) per token: uniform random masking without replacement (MAE, Sec. 3)."""
    return ctx.uniform(name, (batch, n))


def weighted(ctx: Context, weights: Float[Array, "b n"], name: str = "mask") -> Float[Array, "b n"]:
    """Draw tokens one by one, without replacement, with probability proportional to `weights`; the first are kept.

    Each token waits an exponential time of rate `weights`: their order is that of torch's multinomial (Gumbel-top-k
    says the same of logarithms). Tokens of weight 0 come last.
    """
    wait = -jnp.log(jnp.maximum(ctx.uniform(name, weights.shape), jnp.finfo(jnp.float32).tiny))
    return wait / weights


def lines(
    ctx: Context,
    batch: int,
    grid: tuple[int, int],
    keep: tuple[int, int],
    order: Literal["raster", "drawn"] = "raster",
    name: str = "mask",
) -> Float[Array, "b n"]:
    """Whole rows and whole columns of the grid are hidden; keep[0] rows x keep[1] columns have the lowest scores.

    Rows and columns are drawn independently (Audio-MAE's time and frequency masking, Huang et al. 2022), from the
    streams `name`_rows and `name`_columns.

    Args:
      order: of the kept tokens: "raster", or "drawn", rows and columns each in the order of their draw.
    """
    rows = invert(jnp.argsort(ctx.uniform(f"{name}_rows", (batch, grid[0])), axis=1, stable=True))[:, :, None]
    columns = invert(jnp.argsort(ctx.uniform(f"{name}_columns", (batch, grid[1])), axis=1, stable=True))[:, None, :]
    place = rows * grid[1] + columns if order == "drawn" else jnp.zeros_like(rows + columns)
    hidden = (rows >= keep[0]) | (columns >= keep[1])
    return jnp.where(hidden, grid[0] * grid[1], place).reshape(batch, -1).astype(jnp.float32)


def around(ctx: Context, places: Float[Array, "b n 3"], name: str = "mask") -> Float[Array, "b n"]:
    """The nearer to one random token, the higher: a block in space is hidden (Point-BERT's and Point-MAE's "block")."""
    b, n = places.shape[:2]
    chosen = jnp.minimum((ctx.uniform(name, (b,)) * n).astype(jnp.int32), n - 1)
    centre = jnp.take_along_axis(places, chosen[:, None, None], axis=1, mode="clip")
    return -squared_distances(places, centre)[:, :, 0]
