"""Cropping, resizing and mirroring on the device: two small matrix products per image.

The host sends each picture on a canvas [H, W, c] of uint8, at its top left, with its extent (h0, w0, h, w): the
picture's true size and its size on the canvas. Here its crop is drawn by the law of the host's (data/transforms.py),
on the true size, and resized as Pillow does it: antialiased, across and then down, rounded to whole values in 0..255
after each. So the two paths give the same picture for the same box, but for what lies between two values.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from mae_jax.augment import boxes
from mae_jax.core.keys import Context

Row = Float[Array, " b"]
CROP_FRACTION = 0.875  # of the centre crop, as data/transforms.py has it

# TF32 on a GPU, three bfloat16 passes on a TPU. Pixels are whole numbers, exact in each; only weights lose bits, and
# with one bfloat16 pass they would lose more than Pillow's rounding does (docs/augment.md).
PRECISION = jax.lax.Precision.HIGH


class Window(NamedTuple):
    """Which part of a picture is taken: a random box of `scale` and `ratio`; or, where scale is None, a cut out of the
    picture resized and reflected by `pad` pixels; or, where that is 0 too, the centre."""

    scale: tuple[float, float] | None
    ratio: tuple[float, float]
    pad: int = 0


class Draws(NamedTuple):
    """The uniform numbers behind one crop of each sample, so that a crop can be repeated at another size."""

    tries: Float[Array, "b t 2"] | None = None  # areas and ratios of random boxes
    place: Float[Array, "b 2"] | None = None  # where the box lies
    flip: Bool[Array, " b"] | None = None


class Axis(NamedTuple):
    """One axis of the output on the canvas: sample i has its centre at start + (at[i] + 1/2) scale pixels.

    Only the pixels low..high-1 contribute.
    """

    at: Float[Array, "b n"]
    start: Row
    scale: Row
    low: Row
    high: Row


def draw(ctx: Context | None, name: str, b: int, window: Window, flip: bool) -> Draws:
    """The draws for `b` samples of leaf `name`; without a context none, which means the centre, unmirrored."""
    if ctx is None:
        return Draws()
    boxed = window.scale is not None
    return Draws(
        tries=ctx.uniform(f"augment/crop/{name}", (b, boxes.TRIES, 2)) if boxed else None,
        place=ctx.uniform(f"augment/place/{name}", (b, 2)) if boxed or window.pad else None,
        flip=ctx.uniform(f"augment/flip/{name}", (b,)) < 0.5 if flip else None,
    )


def crop(
    canvas: UInt8[Array, "b H W c"],
    extent: Int[Array, "b 4"],
    size: tuple[int, int],
    window: Window,
    draws: Draws,
    interpolation: str = "bicubic",
) -> UInt8[Array, "b h w c"]:
    """The pictures on `canvas`, cropped as `draws` say, resized to `size` and mirrored. No draws: the centre crop."""
    if draws.tries is not None and draws.place is not None and window.scale is not None:
        box = random_box(extent[:, :2], draws.tries, draws.place, window.scale, window.ratio)
        axes = tuple(
            _boxed(size[i], box[:, i], box[:, 2 + i], extent[:, 2 + i] / extent[:, i], extent[:, 2 + i]) for i in (0, 1)
        )
    elif draws.place is not None:
        axes = _padded(extent, size, window.pad, draws.place)
    else:
        axes = _centred(extent, size)
    rows, columns = axes
    if draws.flip is not None:
        columns = columns._replace(at=jnp.where(draws.flip[:, None], columns.at[:, ::-1], columns.at))
    return resample(canvas, rows, columns, interpolation)


def random_box(
    size: Int[Array, "b 2"],
    tries: Float[Array, "b t 2"],
    at: Float[Array, "b 2"],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Float[Array, "b 4"]:
    """(top, left, height, width) in whole pixels of pictures of `size` (h, w): `transforms.crop_box` for a batch.

    All tries are drawn and the first that lies inside counts; where none does, the largest centred box with a ratio in
    bounds.
    """
    h, w = size[:, 0].astype(jnp.float32), size[:, 1].astype(jnp.float32)
    heights, widths = boxes.sides(h * w, tries, scale, ratio)
    inside = (heights > 0) & (heights <= h[:, None]) & (widths > 0) & (widths <= w[:, None])
    found, (height, width) = boxes.first(inside, heights, widths)
    widest = jnp.where(w > h * ratio[1], jnp.minimum(w, jnp.round(h * ratio[1])), w)
    highest = jnp.where(w < h * ratio[0], jnp.minimum(h, jnp.round(w / ratio[0])), h)
    height, width = jnp.where(found, height, highest), jnp.where(found, width, widest)
    top = jnp.where(found, boxes.place(h - height, at[:, 0]), (h - height) // 2)
    left = jnp.where(found, boxes.place(w - width, at[:, 1]), (w - width) // 2)
    return jnp.stack([top, left, height, width], axis=1)


def _boxed(n: int, start: Row, length: Row, shrunk: Row, end: Int[Array, " b"]) -> Axis:
    """`length` pixels from `start` of the true picture -> n; `shrunk`: canvas pixels for each of them."""
    index = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32), (len(start), n))
    first, last = start * shrunk, jnp.minimum((start + length) * shrunk, end)
    return Axis(index, first, (last - first) / n, jnp.floor(first), jnp.ceil(last))


def _whole(index: Float[Array, "b n"], resized: Int[Array, " b"], end: Int[Array, " b"]) -> Axis:
    """Positions `index` of the whole picture resized to `resized` pixels along this axis."""
    zero = jnp.zeros(len(end), jnp.float32)
    return Axis(index, zero, end / resized, zero, end.astype(jnp.float32))


def _cover(extent: Int[Array, "b 4"], size: tuple[int, int]) -> tuple[Int[Array, " b"], Int[Array, " b"]]:
    """`transforms.cover` for a batch."""
    h, w = extent[:, 0], extent[:, 1]
    wide = h * size[1] <= w * size[0]
    return jnp.where(wide, size[0], size[1] * h // w), jnp.where(wide, size[0] * w // h, size[1])


def _padded(extent: Int[Array, "b 4"], size: tuple[int, int], pad: int, at: Float[Array, "b 2"]) -> tuple[Axis, Axis]:
    """`transforms.padded_crop`: positions that lie in the reflected border are those that they reflect."""
    axes = []
    for i, resized in enumerate(_cover(extent, size)):
        offset = boxes.place(resized + 2 * pad - size[i], at[:, i]) - pad
        index = jnp.arange(size[i], dtype=jnp.float32)[None] + offset[:, None]
        period = jnp.maximum(2 * (resized - 1), 1).astype(jnp.float32)[:, None]
        index = jnp.mod(index, period)
        axes.append(_whole(jnp.minimum(index, period - index) * (resized > 1)[:, None], resized, extent[:, 2 + i]))
    return axes[0], axes[1]


def _centred(extent: Int[Array, "b 4"], size: tuple[int, int]) -> tuple[Axis, Axis]:
    """`transforms.resize_and_center_crop`."""
    same = (extent[:, 0] == size[0]) & (extent[:, 1] == size[1])
    axes = []
    for i, resized in enumerate(_cover(extent, (round(size[0] / CROP_FRACTION), round(size[1] / CROP_FRACTION)))):
        resized = jnp.where(same, size[i], resized)
        offset = jnp.round((resized - size[i]) / 2)
        index = jnp.arange(size[i], dtype=jnp.float32)[None] + offset[:, None]
        axes.append(_whole(index, resized, extent[:, 2 + i]))
    return axes[0], axes[1]


def resample(
    canvas: UInt8[Array, "b H W c"], rows: Axis, columns: Axis, interpolation: str = "bicubic"
) -> UInt8[Array, "b h w c"]:
    """Resize by two products, across and then down, each rounded (half up) and clipped to 0..255 as Pillow does."""
    across, down = weights(columns, canvas.shape[2], interpolation), weights(rows, canvas.shape[1], interpolation)
    x = _whole_values(jnp.einsum("bhwc,bpw->bhpc", canvas.astype(jnp.float32), across, precision=PRECISION))
    return _whole_values(jnp.einsum("bhpc,boh->bopc", x, down, precision=PRECISION)).astype(jnp.uint8)


def _whole_values(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    return jnp.clip(jnp.floor(x + 0.5), 0.0, 255.0)


def weights(axis: Axis, length: int, interpolation: str) -> Float[Array, "b n {length}"]:
    """What each of the canvas's `length` pixels gives to each output. Rows add up to 1.

    Where it shrinks, the filter is stretched by the scale: antialiasing, as in Pillow.
    """
    pixel = jnp.arange(length, dtype=jnp.float32)
    centre = axis.start[:, None] + (axis.at + 0.5) * axis.scale[:, None]
    distance = (pixel[None, None] + 0.5 - centre[..., None]) / jnp.maximum(axis.scale, 1.0)[:, None, None]
    inside = (pixel[None] >= axis.low[:, None]) & (pixel[None] < axis.high[:, None])
    w = jnp.where(inside[:, None], FILTERS[interpolation](jnp.abs(distance)), 0.0)
    return w / w.sum(-1, keepdims=True)


def _bicubic(x: Array) -> Array:
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2  # a = -0.5 (Keys 1981)
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _bilinear(x: Array) -> Array:
    return jnp.maximum(1 - x, 0.0)


def _lanczos(x: Array) -> Array:
    return jnp.where(x < 3, jnp.sinc(x) * jnp.sinc(x / 3), 0.0)


FILTERS: Mapping[str, Callable[[Array], Array]] = {"bicubic": _bicubic, "bilinear": _bilinear, "lanczos": _lanczos}


def flops(canvas: tuple[int, int], size: tuple[int, int], channels: int = 3) -> float:
    """Of the two products of one image, multiply-add = 2."""
    return 2.0 * channels * math.prod((canvas[0], size[1])) * (canvas[1] + size[0])
