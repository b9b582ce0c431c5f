"""Made-up point clouds: five families of solids, each with parts (no download)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec, label_phrase, split_name

SHAPES = ("box", "cone", "cylinder", "sphere", "torus")
# (name of the part, which points of unit solids are in it): the parts of each family, numbered over all of them.
PARTS = {"box": ("top and bottom", "sides"), "cone": ("base", "mantle"), "cylinder": ("caps", "mantle"),
         "sphere": ("upper half", "lower half"), "torus": ("outer half", "inner half")}  # fmt: skip
SIZE = (0.5, 1.0)  # half axes, and a torus's radius
TUBE = (0.25, 0.45)  # of a torus, as a share of its radius


@dataclass(frozen=True)
class MadePoints(Spec):
    """Surfaces of spheres, boxes, cylinders, cones and tori of random proportions, turned about the vertical axis.

    A cloud is float32 [count, 3], uniform over the surface up to its stretching; the second axis points up. The label
    is the family, "part" int32 [count] one of two parts of it, numbered over all families (PARTS).

    Args:
        count: points in a cloud.
        length: clouds per split; item i is of family i % 5.
        noise: deviation of Gaussian noise on the points.
    """

    count: int = 512
    length: int = 2000
    noise: float = 0.01

    def open(self, split: str) -> Source:
        if self.count < 8 or self.length < 1 or self.noise < 0:
            raise UserError(
                f"The made_points source makes clouds of data.count={self.count} points, data.length={self.length} of "
                f"them, with data.noise={self.noise}: at least 8, 1 and 0 expected."
            )
        return MadeClouds(self, split_name(split))


class MadeClouds(Source):
    """The clouds of `MadePoints`, each computed from (split, its number)."""

    classes = SHAPES
    part_counts = tuple(len(PARTS[shape]) for shape in SHAPES)

    def __init__(self, spec: MadePoints, split: str):
        self.spec, self.split = spec, split
        self.labels = (np.arange(spec.length) % len(SHAPES)).astype(np.int32)

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng = np.random.Generator(np.random.Philox(key=[1 + (self.split == "test"), i]))
        label = int(self.labels[i])
        points, second = solid(SHAPES[label], self.spec.count, rng)
        angle = rng.uniform(0, 2 * np.pi)
        c, s = np.cos(angle), np.sin(angle)
        points = points @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
        points = points + self.spec.noise * rng.standard_normal(points.shape)
        part = (2 * label + second).astype(np.int32)
        return {"points": points.astype(np.float32), "part": part, "label": label}

    def name(self, i: int) -> str:
        return f"made_points {self.split} #{i}"

    def describe(self) -> str:
        return f"made_points: {len(self)} clouds of {self.spec.count} points ({self.split}), {label_phrase(self)}"


def solid(shape: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(points [count, 3] on the surface, bool [count]: in the second of its PARTS)."""
    angle, u, v = rng.uniform(0, 2 * np.pi, count), rng.random(count), rng.random(count)
    round_about = np.stack([np.cos(angle), np.zeros(count), np.sin(angle)], axis=1)
    up = np.array([0.0, 1.0, 0.0])
    if shape == "torus":
        tube = rng.uniform(*TUBE)
        turn = rng.uniform(0, 2 * np.pi, 4 * count)  # the outside has more area: keep by it
        turn = turn[rng.random(4 * count) < (1 + tube * np.cos(turn)) / (1 + tube)][:count]
        turn = np.resize(turn, count)
        points = round_about * (1 + tube * np.cos(turn))[:, None] + up * (tube * np.sin(turn))[:, None]
        return points * rng.uniform(*SIZE), np.cos(turn) < 0
    half = rng.uniform(*SIZE, 3)
    if shape == "sphere":
        points = rng.standard_normal((count, 3))
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
        return points * half, points[:, 1] < 0
    if shape == "box":
        area = np.array([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
        axis = rng.choice(3, count, p=area / area.sum())
        points = rng.uniform(-1, 1, (count, 3))
        points[np.arange(count), axis] = np.where(u < 0.5, -1.0, 1.0)
        return points * half, axis != 1
    half[2] = half[0]
    if shape == "cylinder":
        mantle = rng.random(count) < 2 * half[1] / (2 * half[1] + half[0])
        radius, height = np.where(mantle, 1.0, np.sqrt(v)), np.where(mantle, 2 * v - 1, np.where(u < 0.5, -1.0, 1.0))
    else:
        slant = np.hypot(2 * half[1], half[0])
        mantle = rng.random(count) < slant / (slant + half[0])
        radius, height = np.sqrt(v), np.where(mantle, 1 - 2 * np.sqrt(v), -1.0)
    return (round_about * radius[:, None] + up * height[:, None]) * half, mantle
