"""Random erasing (Zhong et al. 2017) as timm's fine-tuning recipes use it: one box of normal noise, mode "pixel"."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.augment import boxes
from mae_jax.augment.geometry import per_sample
from mae_jax.core.keys import Context

AREA = (0.02, 1 / 3)  # of the box, as a share of the image's
RATIO = (0.3, 1 / 0.3)  # of its sides


def erase(x: Float[Array, "b *t h w c"], ctx: Context, name: str, probability: float) -> Float[Array, "b *t h w c"]:
    """Normalised images or videos, of which a share `probability` has a box of N(0, 1) noise in it; one for all frames.

    A box is drawn up to 10 times until it is smaller than the image along both axes; where none is, nothing is erased.
    """
    b, h, w = len(x), *x.shape[-3:-1]
    tries = ctx.uniform(f"augment/erase_box/{name}", (b, boxes.TRIES, 2))
    heights, widths = boxes.sides(jnp.full(b, float(h * w)), tries, AREA, RATIO)
    found, (height, width) = boxes.first((heights < h) & (widths < w), heights, widths)
    hit = found & (ctx.uniform(f"augment/erase/{name}", (b,)) < probability)
    at = ctx.uniform(f"augment/erase_place/{name}", (b, 2))
    inside = per_sample(hit, x.ndim)
    for axis, (n, length) in enumerate(((h, height), (w, width))):
        start = boxes.place(n - length, at[:, axis])[:, None]
        along = jnp.arange(n, dtype=jnp.float32)[None]
        within = (along >= start) & (along < start + length[:, None])
        inside = inside & within.reshape(b, *(1,) * (x.ndim - 4), *((n, 1, 1) if axis == 0 else (1, n, 1)))
    return jnp.where(inside, ctx.normal(f"augment/erase_noise/{name}", x.shape), x)
