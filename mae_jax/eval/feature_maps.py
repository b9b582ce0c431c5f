"""Patch features as colours: their first three principal components over the batch (as in DINOv2, Fig. 1)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from mae_jax.core.errors import UserError
from mae_jax.core.types import Batch, Features, Params
from mae_jax.eval.pca import principal
from mae_jax.eval.pictures import grid, to_rgb
from mae_jax.eval.planes import enlarge, plane, readable
from mae_jax.methods.base import Method, Rest

RANGE = (0.01, 0.99)  # quantiles of a component that become black and white


def patch_features(
    method: Method,
    prepare: Callable[[Batch], Batch],
    params: Params,
    rest: Rest,
    batch: Mapping[str, Any],
    block: int | None = None,
) -> tuple[Float[np.ndarray, "b n d"], tuple[int, ...], Mapping[str, Any]]:
    """(patch tokens, their grid, the prepared batch) of a batch as the source gives it.

    Args:
      block: None: after the last norm. A number: the output of that block, from 0, or, where the encoder gives a
        pyramid, that level of it, coarse to fine.

    Raises:
      UserError: no such block.
    """
    shape: dict[str, Any] = {}

    @jax.jit
    def run(params: Params, rest: Rest, batch: Batch) -> tuple[Array, Batch]:
        prepared = prepare(batch)
        tokens, shape["grid"] = _tokens(method.encode(params, rest, prepared), block)
        return tokens, prepared

    tokens, prepared = jax.device_get(run(params, rest, dict(batch)))
    return np.asarray(tokens, np.float32), shape["grid"], prepared


def _tokens(features: Features, block: int | None) -> tuple[Array, tuple[int, ...]]:
    if block is None:
        return features.normed, features.grid
    outputs = features.levels or features.hidden
    if not -len(outputs) <= block < len(outputs):
        what = "levels" if features.levels else "blocks"
        raise UserError(f"there is no --block {block}: this encoder gives {len(outputs)} {what}, counted from 0.")
    found = outputs[block]
    if features.levels:
        return found.reshape(found.shape[0], -1, found.shape[-1]), tuple(found.shape[1:-1])
    return found[:, features.prefix.shape[1] :], features.grid


@dataclasses.dataclass(frozen=True)
class Coloured:
    """Three components of every token, in [0, 1].

    Attributes:
      values: black and white are the quantiles `RANGE` over the tokens in front; 0 in the background.
      share: of the variance of the tokens in front, of each component.
      front: which tokens are in front (all, without a threshold).
    """

    values: Float[np.ndarray, "b n 3"]
    share: Float[np.ndarray, " 3"]
    front: Bool[np.ndarray, "b n"]


def colour(tokens: Float[np.ndarray, "b n d"], foreground: float | None = None, within: bool = False) -> Coloured:
    """Three principal components of all tokens of the batch.

    Args:
      within: take each image's mean out first: what differs inside images, not between them.
      foreground: keep the tokens whose first component, scaled to [0, 1] over the batch, lies above this (a negative
        number -t: below t), and take the components of those alone (DINOv2, Sec. 7.3). Which side is the object is
        not known to the features: look, and choose.

    Raises:
      UserError: too few tokens, or a threshold that leaves too few.
    """
    b, n, d = tokens.shape
    if within:
        tokens = tokens - tokens.mean(axis=1, keepdims=True)
    flat = tokens.reshape(b * n, d)
    front = np.ones(b * n, bool)
    if foreground is not None:
        first = _scaled(principal(flat, 1)(flat), (0.0, 1.0))[:, 0]
        front = first > foreground if foreground >= 0 else first < -foreground
        if front.sum() < 4:
            raise UserError(
                f"--foreground {foreground} leaves {front.sum()} of {b * n} patches: choose a threshold nearer to 0.5 "
                f"(positive: what lies above it; negative: below)."
            )
    found = principal(flat[front], 3)
    values = np.zeros((b * n, 3))
    values[front] = _scaled(found(flat[front]), RANGE)
    return Coloured(values.reshape(b, n, 3), found.share, front.reshape(b, n))


def _scaled(values: Float[np.ndarray, "m k"], between: tuple[float, float]) -> Float[np.ndarray, "m k"]:
    low, high = np.quantile(values, between, axis=0)
    return np.clip((values - low) / np.maximum(high - low, np.finfo(np.float64).tiny), 0.0, 1.0)


def feature_sheet(
    found: Coloured, grid_: tuple[int, ...], images: UInt8[np.ndarray, "b h w 3"], caption: str = "original"
) -> UInt8[np.ndarray, "H W 3"]:
    """A row per image: the input, the three components as red, green and blue, and each by itself."""
    images = readable(images)
    laid = plane(found.values, grid_)
    rows = []
    for image, values in zip(images, laid, strict=True):
        big = to_rgb(enlarge(values, image.shape[:2]))
        rows.append([image, big, *(np.repeat(big[..., i : i + 1], 3, axis=-1) for i in range(3))])
    parts = [f"component {i + 1} ({100 * share:.0f} %)" for i, share in enumerate(found.share)]
    return grid(rows, [caption, "all three as RGB", *parts])
