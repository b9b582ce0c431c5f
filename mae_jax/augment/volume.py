"""Turns, reflections and intensities of volumes [b, d, h, w, c], by the laws of MONAI's random transforms.

Hi-End-MAE's recipe: RandFlip along each axis, RandRotate90 in the plane of the first two, RandScaleIntensity,
RandShiftIntensity, in this order. What is 0 is not in the program.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.augment.geometry import per_sample, reverse, turn, upto
from mae_jax.core.keys import Context


class Changes(NamedTuple):
    """Probabilities, and (half width, probability) of the intensities' uniform draws."""

    flip: float = 0.0  # along each axis by itself
    turn: float = 0.0  # by 1, 2 or 3 quarters in the plane of the first two axes
    scale: tuple[float, float] = (0.0, 0.0)  # values times 1 + U(-half, half)
    shift: tuple[float, float] = (0.0, 0.0)  # values plus U(-half, half)


def change(x: Float[Array, "b d h w c"], ctx: Context, name: str, changes: Changes) -> Float[Array, "b d h w c"]:
    """Each volume after its own draws. Intensities are not clipped."""
    b = len(x)
    if changes.flip:
        hits = ctx.uniform(f"augment/volume_flip/{name}", (b, 3)) < changes.flip
        for axis in range(3):
            x = reverse(x, 1 + axis, hits[:, axis])
    if changes.turn:
        u = ctx.uniform(f"augment/volume_turn/{name}", (b, 2))
        quarters = jnp.where(u[:, 0] < changes.turn, 1 + upto(u[:, 1], 3), 0)
        x = turn(x, (1, 2), quarters)
    if all(changes.scale):
        x = x * (1 + _amount(ctx, f"augment/volume_scale/{name}", b, changes.scale))
    if all(changes.shift):
        x = x + _amount(ctx, f"augment/volume_shift/{name}", b, changes.shift)
    return x


def _amount(ctx: Context, name: str, b: int, law: tuple[float, float]) -> Float[Array, "b 1 1 1 1"]:
    """U(-half, half) with the probability of `law`, else 0."""
    u = ctx.uniform(name, (b, 2))
    return per_sample(jnp.where(u[:, 0] < law[1], law[0] * (2 * u[:, 1] - 1), 0.0), 5)
