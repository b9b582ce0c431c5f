"""Random changes of point clouds [b, n, 3] on the device, each cloud by its own draws."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.keys import Context

AXES = {"x": 0, "y": 1, "z": 2}


class Changes(NamedTuple):
    """What may happen, in this order (Point-BERT's and Point-MAE's data_transforms)."""

    rotate: float = 0.0  # probability of a turn by any angle about `up`
    up: Literal["x", "y", "z"] = "y"
    tilt: float = 0.0  # deviation of three small turns about the axes, radians, cut off at three of it
    scale: tuple[float, float] = (1.0, 1.0)  # bounds of three factors
    translate: float = 0.0  # half width of three offsets
    jitter: float = 0.0  # deviation of noise on each coordinate, cut off at five of it
    dropout: float = 0.0  # largest share of points that become the first one


def change(x: Float[Array, "b n 3"], ctx: Context, name: str, c: Changes) -> Float[Array, "b n 3"]:
    """Each cloud after its own draws; what is off draws nothing."""
    b, n, _ = x.shape
    stream = f"augment/points_{{}}/{name}".format
    if c.rotate:
        u = ctx.uniform(stream("rotate"), (b, 2))
        x = _turned(x, jnp.where(u[:, 0] < c.rotate, 2 * jnp.pi * u[:, 1], 0.0), AXES[c.up])
    if c.tilt:
        angles = jnp.clip(c.tilt * ctx.normal(stream("tilt"), (b, 3)), -3 * c.tilt, 3 * c.tilt)
        for axis in range(3):
            x = _turned(x, angles[:, axis], axis)
    if c.scale != (1.0, 1.0):
        low, high = c.scale
        x = x * (low + (high - low) * ctx.uniform(stream("scale"), (b, 3)))[:, None]
    if c.translate:
        x = x + c.translate * (2 * ctx.uniform(stream("translate"), (b, 3)) - 1)[:, None]
    if c.jitter:
        x = x + jnp.clip(c.jitter * ctx.normal(stream("jitter"), (b, n, 3)), -5 * c.jitter, 5 * c.jitter)
    if c.dropout:
        u = ctx.uniform(stream("dropout"), (b, n + 1))
        x = jnp.where((u[:, 1:] < c.dropout * u[:, :1])[:, :, None], x[:, :1], x)
    return x


def _turned(x: Float[Array, "b n 3"], angle: Float[Array, " b"], axis: int) -> Float[Array, "b n 3"]:
    """Each cloud turned about an axis through the origin."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    c, s = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    out = {axis: x[:, :, axis], i: c * x[:, :, i] - s * x[:, :, j], j: s * x[:, :, i] + c * x[:, :, j]}
    return jnp.stack([out[k] for k in range(3)], axis=-1)
