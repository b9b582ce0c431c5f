"""Which points of a stored cloud travel, on the host."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.limits import BadImage
from mae_jax.data.views import Draw, missing

Sample = Literal["random", "first", "farthest"]


@dataclass(frozen=True)
class PointSample:
    """`count` points float32 [count, 3] of the record's cloud of the leaf's own name.

    Attributes:
        how: "random", without replacement; "first"; "farthest", by farthest-point sampling from point 0.
        unit_sphere: centre what was taken, and divide by the largest norm.
        scale, translate: bounds of three factors and half width of three offsets that this view draws (a vote of an
            evaluation); None: as it is.
        view: of an evaluation's votes; it has draws of its own.
        stream: which of the pipeline's random streams it draws from.
    """

    count: int
    how: Sample
    unit_sphere: bool
    scale: tuple[float, float] | None = None
    translate: float = 0.0
    view: int = 0
    stream: int = 0

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray:
        points = cloud(name, record)
        points = points[self.indices(points, draw)]
        if self.unit_sphere:
            points = points - points.mean(axis=0)
            size = np.sqrt(np.square(points).sum(axis=1).max())
            if not size > 0:
                raise BadImage("all its points are one point, which no scale brings to the unit sphere")
            points = points / size
        if self.scale is not None:
            rng = np.random.default_rng([int(draw(self.stream).integers(2**32)), self.view])
            points = points * rng.uniform(*self.scale, 3) + rng.uniform(-self.translate, self.translate, 3)
        return np.ascontiguousarray(points, np.float32)

    def indices(self, points: np.ndarray, draw: Draw) -> np.ndarray:
        """Which points are taken; where there are too few, all, and then some of them again."""
        n = len(points)
        rng = draw(self.stream) if self.how == "random" else None
        if n < self.count:
            again = np.arange(self.count - n) % n if rng is None else rng.integers(n, size=self.count - n)
            return np.concatenate([np.arange(n), again])
        if self.how == "farthest":
            return farthest(points, self.count)
        return np.arange(self.count) if rng is None else rng.permutation(n)[: self.count]


@dataclass(frozen=True)
class PointLabels:
    """The record's labels of the leaf's own name, int32 [count], for the points that `sample` takes of `points`."""

    sample: PointSample
    points: str = "points"

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray:
        if name not in record:
            raise missing(name, record)
        points, labels = cloud(self.points, record), np.asarray(record[name])
        if labels.shape != points.shape[:1]:
            raise UserError(
                f"the data give '{name}' of shape {labels.shape} for {len(points)} points: one each expected."
            )
        return labels[self.sample.indices(points, draw)].astype(np.int32)


def cloud(name: str, record: Mapping[str, Any]) -> np.ndarray:
    """The coordinates [n, 3] of a record's cloud; other columns are left out. Raises UserError, BadImage."""
    if name not in record:
        raise missing(name, record)
    points = np.asarray(record[name], np.float32)
    if points.ndim != 2 or points.shape[1] < 3:
        raise UserError(f"the data give '{name}' of shape {points.shape}: a cloud [points, 3 or more] expected.")
    if not len(points):
        raise BadImage("it has no points")
    return points[:, :3]


def farthest(points: np.ndarray, count: int) -> np.ndarray:
    """Numbers of `count` farthest points, as tokens/points.py finds them on the device."""
    chosen, least = np.zeros(count, np.int64), np.full(len(points), np.inf, np.float32)
    allowed = np.square(points).sum(axis=1) > 1e-3
    for i in range(1, count):
        offset = points - points[chosen[i - 1]]
        least = np.minimum(least, np.einsum("ij,ij->i", offset, offset))
        chosen[i] = np.where(allowed, least, -1.0).argmax()
    return chosen
