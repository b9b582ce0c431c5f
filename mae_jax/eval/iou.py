"""Scores of a segmentation from one confusion matrix: IoU, pixel accuracy, accuracy of the mean class."""

import dataclasses
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

IGNORE = 255  # the label of a pixel that counts nowhere


@dataclasses.dataclass(frozen=True)
class SegmentationScore:
    """Percent. `iou` per class; NaN where a class is neither in the truth nor predicted."""

    miou: float
    pixel_accuracy: float
    mean_accuracy: float
    iou: Float[np.ndarray, " classes"]

    def details(self, names: Sequence[str]) -> dict[str, float]:
        """For `Result.details`; classes without an IoU are left out."""
        found = {"pixel_accuracy": self.pixel_accuracy, "mean_accuracy": self.mean_accuracy}
        each = zip(names, self.iou, strict=True)
        return found | {f"iou/{name}": float(x) for name, x in each if not np.isnan(x)}


def confusion(
    truth: UInt8[Array, "b h w"], predicted: Int[Array, "b h w"], classes: int, valid: Bool[Array, " b"] | None = None
) -> Int[Array, "{classes} {classes}"]:
    """Number of pixels of each (true, predicted) class; IGNORE and samples that are not `valid` count nowhere."""
    counts = truth != IGNORE
    if valid is not None:
        counts = counts & valid[:, None, None]
    rest = classes * classes  # where what counts nowhere goes
    pair = jnp.where(counts, truth.astype(jnp.int32) * classes + predicted.astype(jnp.int32), rest)
    # One sum per sample: under a split batch the scatters stay on their devices.
    one = lambda p: jnp.zeros(rest + 1, jnp.int32).at[p.reshape(-1)].add(1)
    return jax.vmap(one)(pair).sum(0)[:rest].reshape(classes, classes)


def score(matrix: Int[np.ndarray, "classes classes"]) -> SegmentationScore:
    """Scores of a confusion matrix [true, predicted], which sums up all images (mmseg; not a mean over images).

    Classes that are neither in the truth nor predicted are left out of the mean IoU, those that are not in the truth
    out of the mean accuracy.
    """
    matrix = matrix.astype(np.float64)
    hits, true, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing at all was labelled: NaN says so
        iou = 100 * hits / (true + predicted - hits)
        accuracy = 100 * hits / true
        return SegmentationScore(
            float(np.nanmean(iou)), float(100 * hits.sum() / matrix.sum()), float(np.nanmean(accuracy)), iou
        )
