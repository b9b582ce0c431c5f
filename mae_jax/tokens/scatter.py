"""Pictures of point clouds, in jax alone: shaded discs under a fixed oblique view."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mae_jax.tokens.gather import gather

SIZE = 160  # pixels of a side
YAW, PITCH = 35.0, 22.0  # degrees; the second axis points up
INPUT, VISIBLE, REBUILT = (0.20, 0.45, 0.75), (0.45, 0.50, 0.56), (0.90, 0.42, 0.10)


def draw_points(
    points: Float[Array, "b n 3"],
    colour: Float[Array, "b n 3"] | None = None,
    size: int = SIZE,
    *,
    frame: Float[Array, "b m 3"] | None = None,
) -> Float[Array, "b h w 3"]:
    """Each cloud on white, in [0, 1]: far points first, each a disc with a dark rim, the paler the farther it is.

    Args:
      colour: of each point, in [0, 1]; None: a blue for all.
      size: pixels of a side.
      frame: the cloud that fits the picture, where several are to be drawn to one scale; None: the cloud itself.
    """
    points = points.astype(jnp.float32)
    frame = points if frame is None else frame.astype(jnp.float32)
    colour = jnp.broadcast_to(jnp.array(INPUT)[None, None], points.shape) if colour is None else colour
    low, high = frame.min(axis=1, keepdims=True), frame.max(axis=1, keepdims=True)
    half = jnp.sqrt(jnp.square(frame - (low + high) / 2).sum(-1).max(axis=1))[:, None, None]
    at = (points - (low + high) / 2) / jnp.maximum(half, 1e-6) @ jnp.asarray(_view())
    r = min(max(2, round(0.35 * size / frame.shape[1] ** 0.5)), max(2, size // 20))  # few points are drawn larger
    return jax.lax.map(lambda one: _paint(one[0], one[1], size, r), (at, colour))


def _view() -> Float[np.ndarray, "3 3"]:
    """Coordinates times this: (right, up, towards the eye)."""
    yaw, pitch = np.radians([YAW, PITCH])
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    return (turn @ tilt).astype(np.float32)


def _paint(at: Float[Array, "n 3"], colour: Float[Array, "n 3"], size: int, r: int) -> Float[Array, "h w 3"]:
    """One cloud, painted from far to near into a window of 2r + 1 pixels each."""
    order = jnp.argsort(at[:, 2])
    at, colour = at[order], colour[order]
    depth = jnp.clip((at[:, 2] + 1) / 2, 0.0, 1.0)[:, None]
    colour = colour * (0.3 + 0.7 * depth) + 0.92 * (0.7 - 0.7 * depth)  # haze
    middle = (size - 1) / 2
    # Off the picture is on its border: the window must lie within the canvas.
    x = jnp.clip(middle + at[:, 0] * (middle - r), 0, size - 1)
    y = jnp.clip(middle - at[:, 1] * (middle - r), 0, size - 1)
    offset = jnp.arange(-r, r + 1)
    far = jnp.sqrt(jnp.square(offset)[:, None] + jnp.square(offset)[None, :].astype(jnp.float32))
    disc, rim = (far <= r)[:, :, None], (far > r - 1.2)[:, :, None]

    def one(canvas: Array, point: tuple[Array, Array, Array]) -> tuple[Array, None]:
        x, y, c = point
        start = (jnp.round(y).astype(jnp.int32), jnp.round(x).astype(jnp.int32), jnp.int32(0))
        under = jax.lax.dynamic_slice(canvas, start, (2 * r + 1, 2 * r + 1, 3))
        paint = jnp.where(rim, 0.72 * c[None, None], c[None, None])
        return jax.lax.dynamic_update_slice(canvas, jnp.where(disc, paint, under), start), None

    canvas, _ = jax.lax.scan(one, jnp.ones((size + 2 * r, size + 2 * r, 3)), (x, y, colour))
    return jnp.clip(canvas[r:-r, r:-r], 0.0, 1.0)


def draw_groups(
    points: Float[Array, "b n 3"],
    groups: Float[Array, "b g k 3"],
    centres: Float[Array, "b g 3"],
    keep_ids: Int[Array, "b v"],
    drop_ids: Int[Array, "b m"],
    rebuilt: Mapping[str, Float[Array, "b m k 3"]],
    size: int = SIZE,
) -> dict[str, Float[Array, "b h w 3"]]:
    """ "original"; "masked", the visible groups; and for each of `rebuilt` these beside the rebuilt groups.

    Groups are relative to their centres.
    """
    b = len(points)
    absolute = (groups + centres[:, :, None]).reshape(b, groups.shape[1], -1)
    visible = gather(absolute, keep_ids).reshape(b, -1, 3)
    paint = lambda x, colour: jnp.broadcast_to(jnp.array(colour)[None, None], x.shape)
    drawn = {
        "original": draw_points(points, size=size, frame=points),
        "masked": draw_points(visible, paint(visible, VISIBLE), size, frame=points),
    }
    for name, pred in rebuilt.items():
        new = (pred + gather(centres, drop_ids)[:, :, None]).reshape(b, -1, 3)
        both = jnp.concatenate([visible, new], axis=1)
        colours = jnp.concatenate([paint(visible, VISIBLE), paint(new, REBUILT)], axis=1)
        drawn[name] = draw_points(both, colours, size, frame=points)
    return drawn
