"""Coloured noise: filtered white noise whose highest values say which patches stay visible (ColorMAE, Sec. 3).

With W white noise and G_s a Gaussian blur of width s, s1 < s2, a colour is a sum over W, G_s1 W and G_s2 W:

    red     G_s2 W                 low frequencies: large blobs
    blue    W - G_s1 W             high: fine and evenly spread
    green   G_s1 W - G_s2 W        a band between: blobs of a size, evenly spread
    purple  W - (G_s1 W - G_s2 W)  all but that band
    white   W                      plain random masking

Widths are in pixels of a pattern, of which one is a patch of the image. The paper does not give its own.
"""

import dataclasses
import hashlib
import json
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context

Colour = Literal["green", "blue", "red", "purple", "white"]
# What of W, G_s1 W and G_s2 W each colour is the sum of.
FILTERS: dict[str, tuple[float, float, float]] = {
    "white": (1, 0, 0), "red": (0, 0, 1), "blue": (1, -1, 0), "green": (0, 1, -1), "purple": (1, -1, 1),
}  # fmt: skip
REACH = 4  # widths after which a blur on a line is cut off


# On the host: a bank of patterns, made once ---------------------------------------------------------------------------


def response(colour: str, size: tuple[int, int], blur: tuple[float, float]) -> Float[np.ndarray, "m n"]:
    """What the filter of a colour multiplies each frequency of a periodic image by (laid out as `numpy.fft.fft2`)."""
    rows, columns = (np.fft.fftfreq(n) for n in size)
    square = rows[:, None] ** 2 + columns[None] ** 2
    parts = [np.ones(size)] + [np.exp(-2 * np.pi**2 * s**2 * square) for s in blur]
    return sum(w * part for w, part in zip(FILTERS[colour], parts))  # type: ignore[return-value]


def colored_noise(
    rng: np.random.Generator, colour: str, n: int, size: tuple[int, int], blur: tuple[float, float]
) -> Float32[np.ndarray, "n m k"]:
    """`n` periodic patterns of a colour, each spread over [0, 1].

    Args:
      size: rows and columns of a pattern.
      blur: s1 < s2, in pixels of the pattern.
    """
    white = rng.standard_normal((n, *size))
    noise = np.fft.ifft2(np.fft.fft2(white) * response(colour, size, blur)[None]).real
    low, high = noise.min(axis=(1, 2), keepdims=True), noise.max(axis=(1, 2), keepdims=True)
    return ((noise - low) / (high - low)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Bank:
    """L patterns of one colour, found in a file or made from a seed: a frozen "network" (teachers/noise_bank.py).

    Attributes:
      colour, count: which, and L.
      size: rows and columns of a pattern.
      blur: see `colored_noise`.
      seed: of the noise.
    """

    colour: str
    count: int
    size: tuple[int, int]
    blur: tuple[float, float]
    seed: int = 0

    def generate(self) -> Float32[np.ndarray, "l m k"]:
        """The patterns. The noise under the filters is the same for all colours."""
        return colored_noise(np.random.default_rng(self.seed), self.colour, self.count, self.size, self.blur)

    @property
    def recipe(self) -> str:
        """A hash of all that `generate` depends on; that of its values would differ between processors."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()


# On the device: from patterns to one window per image -----------------------------------------------------------------


def crop_windows(
    patterns: Float[Array, "l m k"],
    number: Int[Array, " b"],
    corner: Int[Array, "b 2"],
    flip: Bool[Array, "b 2"],
    window: tuple[int, int],
) -> Float[Array, "b h w"]:
    """A window of a pattern per image, over its own maximum (where that is positive).

    Args:
      number: which pattern. corner: row and column of the window's first pixel. flip: horizontally, vertically.
    """
    cut = lambda i, at: jax.lax.dynamic_slice(patterns, (i, at[0], at[1]), (1, *window))[0]
    found = jax.vmap(cut)(number, corner)
    found = jnp.where(flip[:, 0, None, None], found[:, :, ::-1], found)
    found = jnp.where(flip[:, 1, None, None], found[:, ::-1], found)
    peak = found.max(axis=(1, 2), keepdims=True)
    return found / jnp.where(peak > 0, peak, 1.0)


def draw_pass(
    ctx: Context, b: int, count: int, room: tuple[int, int]
) -> tuple[Int[Array, " b"], Int[Array, "b 2"], Bool[Array, "b 2"]]:
    """Number, corner and flips as published: image k of a pass over the bank has pattern k, and all images of a pass
    share one crop and one flip of each kind.

    Passes are counted in the global batch, so that neither devices nor microbatches change a mask. A test gives the
    context "corner" [b, 2] and "flip" [b, 2].

    Args:
      count: patterns in the bank. room: pixels by which a pattern is larger than a window, per axis.
    """
    rows = jnp.arange(b) if ctx.rows is None else ctx.rows
    key = ctx.key("passes")
    draw = lambda number: jax.random.uniform(jax.random.fold_in(key, number), (4,))
    corner, flip = _corner_and_flip(jax.vmap(draw)(rows // count), room)
    return rows % count, ctx.given("corner", lambda: corner), ctx.given("flip", lambda: flip)


def draw_sample(
    ctx: Context, b: int, count: int, room: tuple[int, int]
) -> tuple[Int[Array, " b"], Int[Array, "b 2"], Bool[Array, "b 2"]]:
    """Number, corner and flips, drawn for each image; arguments as of `draw_pass`."""
    u = ctx.uniform("windows", (b, 5))
    number = jnp.minimum((u[:, 4] * count).astype(jnp.int32), count - 1)
    return number, *_corner_and_flip(u[:, :4], room)


def _corner_and_flip(u: Float[Array, "b 4"], room: tuple[int, int]) -> tuple[Int[Array, "b 2"], Bool[Array, "b 2"]]:
    places = jnp.asarray(room, jnp.int32)[None] + 1
    corner = jnp.minimum((u[:, :2] * places).astype(jnp.int32), places - 1)  # the product may round up to `places`
    return corner, u[:, 2:] < 0.5


def fresh_windows(
    white: Float[Array, "b m k"], weights: Float[Array, "3"], blur: tuple[float, float], window: tuple[int, int]
) -> Float[Array, "b h w"]:
    """Coloured noise filtered here and now: no bank, no two images alike.

    Args:
      white: noise that is `margin(blur)` pixels larger than a window on every side.
      weights: of W, G_s1 W and G_s2 W (`FILTERS`).
    """
    k = margin(blur)
    total = weights[0] * white[:, k : k + window[0], k : k + window[1]]
    for weight, s in zip(weights[1:], blur):
        down, across = (jnp.asarray(_blur_matrix(n, k, s)) for n in window)
        rows = jnp.einsum("hm,bmk->bhk", down, white, precision="highest")
        total = total + weight * jnp.einsum("wk,bhk->bhw", across, rows, precision="highest")
    return total


def fresh_flops(blur: tuple[float, float], window: tuple[int, int]) -> float:
    """FLOPs of one sample's `fresh_windows`."""
    (h, w), k = window, margin(blur)
    return 2 * 2.0 * (h * (h + 2 * k) * (w + 2 * k) + h * (w + 2 * k) * w)


def margin(blur: tuple[float, float]) -> int:
    """How far a blur reaches, in pixels."""
    return int(np.ceil(REACH * max(blur)))


def _blur_matrix(n: int, k: int, s: float) -> Float32[np.ndarray, "n m"]:
    """The [n, n + 2 k] matrix that blurs a line and drops k pixels at either end."""
    distance = np.arange(n + 2 * k)[None] - np.arange(n)[:, None] - k
    weights = np.exp(-0.5 * (distance / s) ** 2) * (np.abs(distance) <= k)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def check_blur(blur: tuple[float, float]) -> None:
    """Raise UserError unless 0 < s1 < s2."""
    if not 0 < blur[0] < blur[1]:
        raise UserError(f"method.blur={blur} must be two widths of Gaussians, in patches: above 0, the smaller first.")
