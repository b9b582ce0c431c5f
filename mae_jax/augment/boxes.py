"""Random rectangles, for a whole batch at once: what cropping and erasing draw."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

TRIES = 10
Sides = Float[Array, "b t"]


def sides(
    area: Float[Array, " b"],
    tries: Float[Array, "b t 2"],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[Sides, Sides]:
    """(heights, widths) of each try, whole numbers: a share of `area` uniform in `scale`, width / height log-uniform in
    `ratio`, sides rounded (half to even). `tries`: uniform numbers in [0, 1)."""
    share = scale[0] + tries[..., 0] * (scale[1] - scale[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(low + tries[..., 1] * (high - low))
    wanted = area[:, None] * share
    return jnp.round(jnp.sqrt(wanted / aspect)), jnp.round(jnp.sqrt(wanted * aspect))


def first(fits: Bool[Array, "b t"], *values: Sides) -> tuple[Bool[Array, " b"], tuple[Float[Array, " b"], ...]]:
    """(whether any try fits, each value at the first try that does; 0 where none). Without a gather."""
    chosen = fits & (jnp.cumsum(fits, axis=1) == 1)
    return fits.any(axis=1), tuple(jnp.where(chosen, value, 0.0).sum(axis=1) for value in values)


def place(room: Shaped[Array, " b"], u: Float[Array, " b"]) -> Float[Array, " b"]:
    """A whole number uniform in 0..room (room included), from u in [0, 1)."""
    return jnp.minimum(jnp.floor(u * (room + 1)), room).astype(jnp.float32)
