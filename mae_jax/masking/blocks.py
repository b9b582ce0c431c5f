"""BEiT's block-wise masking with an exact count, as scores (CAE; Bao et al. 2021, Algorithm 1)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.keys import Context

# Of 10 000 masks of 98 in 14 x 14 none took more than 16 rounds of 16 candidates.
ROUNDS, CANDIDATES = 32, 16


def blocks(
    ctx: Context, batch: int, grid: tuple[int, int], count: int, *, least: int, aspect: float, name: str = "mask"
) -> Float[Array, "b n"]:
    """Scores of which the `count` highest are a union of rectangles: 1 or more in it, less than 1 outside.

    Until `count` tokens are covered, a rectangle is drawn: its area from U(least, number still missing), its height /
    width log-uniform in [aspect, 1 / aspect], its place uniform. It is taken if it is smaller than the grid in both
    directions and covers at least one new token, but no more than are missing.

    A refused rectangle changes nothing, so the first acceptable one of CANDIDATES drawn together has the law of
    drawing one by one. The number of rounds is fixed: a loop that ends when the whole batch is done would make
    devices wait for each other. What is still missing then is filled up with random tokens.
    """
    height, width = grid
    draws = ctx.uniform(f"{name}/blocks", (batch, ROUNDS, CANDIDATES, 4))
    rows, columns = jnp.arange(height)[None, None, :], jnp.arange(width)[None, None, :]

    def add(hidden: Array, u: Array) -> tuple[Array, None]:  # [b h w] bool, [b candidates 4]
        missing = (count - hidden.sum(axis=(1, 2)))[:, None]
        area = least + (missing - least) * u[..., 0]  # runs downwards where fewer than `least` are missing
        ratio = jnp.exp(math.log(aspect) * (1 - 2 * u[..., 1]))
        h, w = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
        top, left = jnp.floor(u[..., 2] * (height - h + 1)), jnp.floor(u[..., 3] * (width - w + 1))
        rect = _between(rows, top, h)[:, :, :, None] & _between(columns, left, w)[:, :, None, :]
        new = (rect & ~hidden[:, None]).sum(axis=(2, 3))
        fits = (h < height) & (w < width) & (new > 0) & (new <= missing)
        first = fits & (jnp.cumsum(fits, axis=1) == 1)
        return hidden | (rect & first[:, :, None, None]).any(axis=1), None

    hidden, _ = jax.lax.scan(add, jnp.zeros((batch, height, width), bool), draws.swapaxes(0, 1))
    return hidden.reshape(batch, -1) + ctx.uniform(f"{name}/fill", (batch, height * width))


def _between(i: Array, start: Array, length: Array) -> Array:
    return (i >= start[:, :, None]) & (i < (start + length)[:, :, None])
