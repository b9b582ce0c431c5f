"""Scores of a segmentation of clouds into parts, as ShapeNetPart is scored (Yi et al. 2016; PointNet, Sec. 5.1)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class PartScore:
    """Percent. `category` is the mean IoU of each category's clouds; NaN where there is none."""

    instance_miou: float
    class_miou: float
    accuracy: float
    category: Float[np.ndarray, " categories"]


def offsets(counts: Sequence[int]) -> list[range]:
    """The parts of each category, numbered through: counts (2, 3) -> [0..1], [2..4]."""
    ends = np.cumsum(counts).tolist()
    return [range(end - n, end) for n, end in zip(counts, ends)]


def cloud_iou(truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], parts: Sequence[int]) -> float:
    """The mean over a category's parts of their IoU in one cloud; 1 for a part that is in neither."""
    ious = []
    for part in parts:
        both, either = (truth == part) & (predicted == part), (truth == part) | (predicted == part)
        ious.append(both.sum() / either.sum() if either.any() else 1.0)
    return float(np.mean(ious))


def score(
    ious: Float[np.ndarray, " clouds"], categories: Int[np.ndarray, " clouds"], count: int, accuracy: float
) -> PartScore:
    """Scores of all clouds' `cloud_iou` (0..1) by their categories; `accuracy` of points, 0..1."""
    each = np.full(count, np.nan)
    for c in np.unique(categories):
        each[c] = 100 * ious[categories == c].mean()
    return PartScore(100 * float(ious.mean()), float(np.nanmean(each)), 100 * accuracy, each)
