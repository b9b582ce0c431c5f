"""Colours of images in [0, 1], each sample by its own draw: jitter, grey, blur, solarisation, in this order.

Laws and formulas are torchvision's for float images; the host's libraries would round to 8 bits after each step, here
nothing is rounded. An operation whose strength or probability is 0 is not in the program. One that is there is computed
for every sample, whatever its probability: a compiled program has no other way.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mae_jax.augment.geometry import per_sample
from mae_jax.core.keys import Context

Images = Float[Array, "b h w c"]
Row = Float[Array, " b"]

GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green, blue (ITU-R 601, four digits)
SOLARIZE = 0.5  # between 127 and 128 of 255: Pillow's threshold of 128
BLUR = (0.1, 2.0)  # bounds of the deviation in pixels (BYOL, DINO)
BLUR_RADIUS = 8  # pixels on either side of the kernel's middle: 4 deviations


class Colour(NamedTuple):
    """Strengths (jitter: brightness, contrast, saturation, hue) and probabilities."""

    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 1.0
    grayscale: float = 0.0
    blur: float = 0.0
    solarize: float = 0.0
    one_of: bool = False  # at most one of the last three, drawn together: their probabilities then add up


class Draws(NamedTuple):
    """What was drawn for each sample; None: this is off."""

    order: Float[Array, "b j"] | None = None  # rank of each jitter operation that is on
    factor: Float[Array, "b j"] | None = None  # of each; a hue's is its shift in turns
    jitter: Bool[Array, " b"] | None = None  # whether; None: always
    grey: Bool[Array, " b"] | None = None
    blur: Bool[Array, " b"] | None = None
    sigma: Row | None = None
    solarize: Bool[Array, " b"] | None = None


def draw(ctx: Context, name: str, b: int, colour: Colour) -> Draws:
    """The draws of `b` samples for leaf `name`."""
    out = Draws()
    uniform = lambda what, *shape: ctx.uniform(f"augment/{what}/{name}", (b, *shape))
    strengths = [s for s in colour.jitter if s]
    if strengths and colour.jitter_p:
        low, high = zip(*(_range(i, s) for i, s in enumerate(colour.jitter) if s))
        least, most = (jnp.asarray(edge, jnp.float32)[None] for edge in (low, high))
        out = out._replace(
            factor=least + uniform("jitter", len(strengths)) * (most - least),
            order=_ranks(uniform("jitter_order", len(strengths))),
            jitter=uniform("jitter_p") < colour.jitter_p if colour.jitter_p < 1 else None,
        )
    chances = {"grey": colour.grayscale, "blur": colour.blur, "solarize": colour.solarize}
    u, before = uniform("one_of") if colour.one_of else None, 0.0
    for what, p in chances.items():
        if not p:
            continue
        hit = uniform(what) < p if u is None else (u >= before) & (u < before + p)
        before += p
        out = out._replace(**{what: hit})
    if out.blur is not None:
        out = out._replace(sigma=BLUR[0] + uniform("sigma") * (BLUR[1] - BLUR[0]))
    return out


def apply(x: Images, draws: Draws, colour: Colour) -> Images:
    """`x` in [0, 1] after what was drawn."""
    if draws.factor is not None and draws.order is not None:
        changed = jitter(x, draws.factor, draws.order, [i for i, s in enumerate(colour.jitter) if s])
        x = changed if draws.jitter is None else jnp.where(per_sample(draws.jitter, 4), changed, x)
    if draws.grey is not None:
        x = jnp.where(per_sample(draws.grey, 4), jnp.broadcast_to(grey(x), x.shape), x)
    if draws.blur is not None and draws.sigma is not None:
        x = jnp.where(per_sample(draws.blur, 4), blur(x, draws.sigma), x)
    if draws.solarize is not None:
        x = jnp.where(per_sample(draws.solarize, 4) & (x >= SOLARIZE), 1 - x, x)
    return x


def _range(which: int, strength: float) -> tuple[float, float]:
    """Bounds of the factor: about 1 and never below 0, or, of the hue, about 0."""
    return (-strength, strength) if which == HUE else (max(0.0, 1 - strength), 1 + strength)


BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def _ranks(u: Float[Array, "b j"]) -> Float[Array, "b j"]:
    """The place of each column in ascending order, by comparison: a uniform permutation."""
    return (u[:, None, :] < u[:, :, None]).sum(-1).astype(jnp.float32)


def jitter(x: Images, factor: Float[Array, "b j"], order: Float[Array, "b j"], which: list[int]) -> Images:
    """The operations `which` by their factors, those of order 0 first, each sample in its own order.

    All but the hue's are blends with an image of less information, so that one blend serves for each place.
    """
    for place in range(len(which)):
        here = order == place
        f = per_sample((factor * here).sum(1), 4)
        chosen = {op: per_sample(here[:, i], 4) for i, op in enumerate(which)}
        base = jnp.zeros_like(x[..., :1])
        if CONTRAST in chosen or SATURATION in chosen:
            g = grey(x)
            base = jnp.where(chosen.get(SATURATION, False), g, base)
            base = jnp.where(chosen.get(CONTRAST, False), g.mean((1, 2, 3), keepdims=True), base)
        blended = blend(x, base, f)
        x = jnp.where(chosen[HUE], hue(x, f), blended) if HUE in chosen else blended
    return x


def blend(x: Images, base: Float[Array, "b h w d"], factor: Float[Array, "b 1 1 1"]) -> Images:
    """factor x + (1 - factor) base, clipped to [0, 1]. Base 0: brightness; mean grey: contrast; grey: saturation."""
    return jnp.clip(factor * x + (1 - factor) * base, 0.0, 1.0)


def grey(x: Images) -> Float[Array, "b h w 1"]:
    """One channel of weights GREY; an image of one channel is its own."""
    if x.shape[-1] == 1:
        return x
    return x[..., :1] * GREY[0] + x[..., 1:2] * GREY[1] + x[..., 2:] * GREY[2]


def hue(x: Images, shift: Float[Array, "b 1 1 1"]) -> Images:
    """RGB in [0, 1] with the hue of HSV moved by `shift` turns."""
    top, bottom = x.max(-1, keepdims=True), x.min(-1, keepdims=True)
    chroma = top - bottom
    r, g, b = (x[..., i : i + 1] for i in range(3))
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(top == r, (g - b) / safe, jnp.where(top == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    angle = sixth + 6 * shift
    # Each channel is a trapezium over the angle; red is at its top about 0, green about 2, blue about 4.
    k = [jnp.mod(n + angle, 6.0) for n in (5, 3, 1)]
    out = [top - chroma * jnp.clip(jnp.minimum(a, 4 - a), 0.0, 1.0) for a in k]
    return jnp.concatenate(out, axis=-1)


def blur(x: Images, sigma: Row) -> Images:
    """Gaussian blur of each sample's deviation in pixels, borders reflected; the kernel's size is the same for all."""
    offsets = np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=np.float32)
    kernel = jnp.exp(-0.5 * jnp.square(offsets[None] / sigma[:, None]))
    kernel = kernel / kernel.sum(1, keepdims=True)
    for axis in (1, 2):
        n, margin = x.shape[axis], [(0, 0)] * 4
        margin[axis] = (BLUR_RADIUS, BLUR_RADIUS)
        padded = jnp.pad(x, margin, mode="reflect" if n > 1 else "edge")
        x = jnp.zeros_like(x)
        for i in range(len(offsets)):
            x = x + per_sample(kernel[:, i], 4) * jax.lax.slice_in_dim(padded, i, i + n, axis=axis)
    return x
