"""Mixup and cutmix over one batch, with soft targets (MAE's fine-tuning recipe; timm's "batch" mode).

One draw serves the whole batch, and a sample's partner is its mirror image in the batch: sample i meets
sample b-1-i. The pieces are pure functions of the draw, so that a test can give the draw; `draw` makes one
from a key, inside jit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Scalar = Float[Array, ""]
Edge = Int[Array, ""] | int


class Box(NamedTuple):
    """A cutmix rectangle in pixels, half open: rows top..bottom-1, columns left..right-1."""

    top: Edge
    bottom: Edge
    left: Edge
    right: Edge


class Draw(NamedTuple):
    """What is random in one mixed batch. `lam` is the own image's share; for cutmix, of the clipped box."""

    lam: Scalar
    box: Box
    use_cutmix: Bool[Array, ""]


def soft_targets(
    labels: Int[Array, " b"],
    classes: int,
    smoothing: float,
    lam: Scalar | Float[Array, " b"] | float,
    partners: Int[Array, " b"] | None = None,
) -> Float[Array, "b {classes}"]:
    """Return [b, classes] float32: smoothed one-hot of `labels` [b], mixed lam : 1 - lam with the partner's.

    Smoothing comes before mixing: off value smoothing/classes, on value 1 - smoothing + smoothing/classes.

    Args:
      lam: one for all, or one per sample.
      partners: the labels of the partners; None: the labels reversed.
    """

    def smooth(labels: Int[Array, " b"]) -> Float[Array, "b c"]:
        return jax.nn.one_hot(labels, classes, dtype=jnp.float32) * (1.0 - smoothing) + smoothing / classes

    share = jnp.broadcast_to(jnp.asarray(lam, jnp.float32), labels.shape)[:, None]
    return smooth(labels) * share + smooth(labels[::-1] if partners is None else partners) * (1.0 - share)


def mixed_labels(
    labels: Int[Array, "b c"], smoothing: float, lam: Float[Array, " b"] | float, partners: Int[Array, "b c"]
) -> Float[Array, "b c"]:
    """Targets of 0 and 1 for each class, moved towards 1/2 by `smoothing`, mixed lam : 1 - lam with the partner's."""
    share = jnp.broadcast_to(jnp.asarray(lam, jnp.float32), labels.shape[:1])[:, None]
    mixed = labels * share + partners * (1.0 - share)
    return mixed * (1.0 - smoothing) + smoothing / 2


def mixup(images: Float[Array, "b h w c"], lam: Scalar | float) -> Float[Array, "b h w c"]:
    """Return lam * images + (1 - lam) * reversed batch."""
    return images * lam + images[::-1] * (1.0 - lam)


def cutmix(images: Float[Array, "b h w c"], box: Box) -> Float[Array, "b h w c"]:
    """Return the images with the pixels inside `box` taken from the reversed batch."""
    rows = jnp.arange(images.shape[1])
    columns = jnp.arange(images.shape[2])
    in_rows = (rows >= box.top) & (rows < box.bottom)
    in_columns = (columns >= box.left) & (columns < box.right)
    inside = in_rows[:, None] & in_columns[None, :]
    return jnp.where(inside[None, :, :, None], images[::-1], images)


def cutmix_box(size: tuple[int, int], lam: Scalar | float, centre: tuple[Edge, Edge]) -> Box:
    """Return the box of side ratio sqrt(1 - lam) about the pixel `centre` (row, column), clipped to `size`.

    Sides are truncated to whole pixels and half a side is rounded down, as in timm.
    """
    ratio = jnp.sqrt(1.0 - jnp.asarray(lam, jnp.float32))
    edges = []
    for length, middle in zip(size, centre):
        half = (length * ratio).astype(jnp.int32) // 2
        edges += [jnp.clip(middle - half, 0, length), jnp.clip(middle + half, 0, length)]
    return Box(*edges)


def box_lam(box: Box, size: tuple[int, int]) -> Scalar:
    """Return the share of an (h, w) image outside `box`: cutmix's true lam, never below the drawn one."""
    area = (jnp.asarray(box.bottom) - box.top) * (jnp.asarray(box.right) - box.left)
    return 1.0 - area / (size[0] * size[1])


def draw(
    key: Array,
    size: tuple[int, int],
    *,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    probability: float = 1.0,
    switch_probability: float = 0.5,
) -> Draw:
    """Return one batch's draw for images of `size` (h, w).

    With `probability` the batch is mixed at all (otherwise lam is 1); if so, cutmix with
    `switch_probability`, else mixup. lam ~ Beta(alpha, alpha) of the chosen kind; an alpha of 0 switches that
    kind off.
    """
    if not (mixup_alpha > 0 or cutmix_alpha > 0):
        raise ValueError("At least one of mixup_alpha and cutmix_alpha must be above 0; to mix nothing, do not mix.")
    if mixup_alpha <= 0 or cutmix_alpha <= 0:
        switch_probability = 1.0 if cutmix_alpha > 0 else 0.0
    apply_key, switch_key, mixup_key, cutmix_key, row_key, column_key = jax.random.split(key, 6)
    mixed = jax.random.uniform(apply_key) < probability
    use_cutmix = mixed & (jax.random.uniform(switch_key) < switch_probability)
    one = jnp.float32(1.0)
    mixup_lam = jax.random.beta(mixup_key, mixup_alpha, mixup_alpha) if mixup_alpha > 0 else one
    cutmix_lam = jax.random.beta(cutmix_key, cutmix_alpha, cutmix_alpha) if cutmix_alpha > 0 else one
    centre = (jax.random.randint(row_key, (), 0, size[0]), jax.random.randint(column_key, (), 0, size[1]))
    box = cutmix_box(size, cutmix_lam, centre)
    lam = jnp.where(use_cutmix, box_lam(box, size), jnp.where(mixed, mixup_lam, one))
    return Draw(lam, box, use_cutmix)


def mix_images(images: Float[Array, "b h w c"], draw: Draw, cut: bool = True) -> Float[Array, "b h w c"]:
    """The mixed images for one draw; `cut` False: draws are never of cutmix, which is then left out."""
    blended = mixup(images, draw.lam).astype(images.dtype)
    return jnp.where(draw.use_cutmix, cutmix(images, draw.box), blended) if cut else blended


def mix(
    images: Float[Array, "b h w c"], labels: Int[Array, " b"], draw: Draw, *, classes: int, smoothing: float
) -> tuple[Float[Array, "b h w c"], Float[Array, "b {classes}"]]:
    """Return the mixed images and their soft targets for one draw."""
    return mix_images(images, draw), soft_targets(labels, classes, smoothing, draw.lam)
