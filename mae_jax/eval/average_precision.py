"""Mean average precision of multi-label scores (AudioSet, VOC): areas under precision-recall curves, by steps."""

import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.core.errors import UserError


def mean_average_precision(
    scores: Float[np.ndarray, "n c"], labels: Shaped[np.ndarray, "n c"]
) -> tuple[float, Float[np.ndarray, " c"]]:
    """(mean over the classes that have a positive, average precision per class), between 0 and 1.

    AP = sum_k (R_k - R_{k-1}) P_k over the distinct scores as thresholds, highest first, as scikit-learn's
    `average_precision_score`: samples of equal score are let in together, and nothing is interpolated. NaN for a class
    without positives.

    Args:
      scores: of any monotone scale (logits or probabilities).
      labels: 0 or 1.

    Raises:
      UserError: scores that are not finite, labels that are neither 0 nor 1, or no positive in any class.
    """
    if scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} differ in shape")
    if not np.isfinite(scores).all():
        raise UserError("mean average precision ranks samples by their scores, and some are not finite.")
    if not np.isin(labels, (0, 1)).all():
        raise UserError("mean average precision needs labels of 0 and 1, a column for each class.")
    positives = labels.sum(axis=0)
    if not positives.any():
        raise UserError("mean average precision has nothing to count: no sample has a label.")
    n = len(scores)
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=0)
    hits = np.take_along_axis(labels, order, axis=0).astype(np.float64)
    last = np.concatenate([ranked[1:] != ranked[:-1], np.ones((1, scores.shape[1]), bool)])
    # Each sample's threshold lets in everything up to the last of its equals.
    end = np.minimum.accumulate(np.where(last, np.arange(n)[:, None], n)[::-1], axis=0)[::-1]
    precision = np.take_along_axis(hits.cumsum(axis=0), end, axis=0) / (end + 1)
    found = (precision * hits).sum(axis=0) / np.where(positives, positives, np.nan)
    return float(np.nanmean(found)), found
