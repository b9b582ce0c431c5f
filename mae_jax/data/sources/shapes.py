"""Made-up scenes with a class for each pixel: textured shapes on photographs (no download)."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.annotation import Annotation
from mae_jax.data.sources.base import Source, Spec, label_phrase, split_name
from mae_jax.data.sources.photos import TRAIN_COLUMNS

SEGMENTS = ("background", "horizontal", "vertical", "diagonal", "checks", "dots")
SHAPES = (2, 4)  # per scene, fewest and most
RADIUS = (0.14, 0.26)  # of a shape, as a share of the scene's side
PERIOD = (5.0, 9.0)  # of a texture, pixels
CONTRAST = 0.25  # least distance of a texture's two colours, as a share of the scale, in the mean over channels
NOISE = 0.03


@dataclass(frozen=True)
class Shapes(Spec):
    """Discs, squares and triangles, each with one of five textures, on photographs of a temple and of a flower.

    A pixel's class is the texture's (0: the photograph). Its colours, phase and period are random, so colour tells
    nothing. Scenes are uint8 [size, size, 3], each computed from (split, its number); training scenes have the
    photographs' left part behind them, test scenes the right one.

    Args:
        size: the side, pixels.
        length: scenes per split.
    """

    size: int = 64
    length: int = 2048

    def open(self, split: str) -> Source:
        if self.size < 16 or self.length < 1:
            raise UserError(f"The shapes source makes scenes of data.size={self.size} and data.length={self.length}: "
                            "at least 16 pixels and 1 scene expected.")  # fmt: skip
        return MadeScenes(self.size, self.length, split_name(split))


class MadeScenes(Source):
    """The scenes of `Shapes`."""

    segments = SEGMENTS

    def __init__(self, size: int, length: int, split: str):
        self.size, self.split = size, split
        self.labels = np.full(length, -1, np.int32)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image, labels = scene(self.split == "test", i, self.size)
        return {"image": image, "segmentation": Annotation(labels, self.name(i), len(SEGMENTS)), "label": -1}

    def name(self, i: int) -> str:
        return f"shapes {self.split} #{i}"

    def describe(self) -> str:
        side = self.size
        return f"shapes: {len(self)} made-up scenes {side}x{side}x3 uint8 ({self.split}), {label_phrase(self)}"


def scene(test: bool, i: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(image uint8 [size, size, 3], classes uint8 [size, size]) of scene i."""
    rng = np.random.Generator(np.random.Philox(key=[1 + test, i]))
    image = _background(rng, test, size)
    labels = np.zeros((size, size), np.uint8)
    at = np.stack(np.meshgrid(*(np.arange(size) + 0.5,) * 2, indexing="ij"))  # [2, h, w]: row, column
    for _ in range(rng.integers(SHAPES[0], SHAPES[1] + 1)):
        inside = _shape(rng, at, size)
        label = int(rng.integers(1, len(SEGMENTS)))
        wave = _texture(rng, at, label)[..., None]  # 0 or 1
        low, high = _colours(rng)
        image = np.where(inside[..., None], low + (high - low) * wave, image)
        labels[inside] = label
    image = image + NOISE * rng.standard_normal(image.shape)
    return np.clip(np.round(255 * image), 0, 255).astype(np.uint8), labels


@functools.cache
def _photographs(test: bool) -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_sample_images  # slow to import

    images = load_sample_images().images
    edge = round(images[0].shape[1] * TRAIN_COLUMNS)
    return tuple(p[:, edge:] if test else p[:, :edge] for p in images)


def _background(rng: np.random.Generator, test: bool, size: int) -> np.ndarray:
    """A window of a photograph in [0, 1], repeated beyond its border where the scene is larger."""
    photographs = _photographs(test)
    photo = photographs[rng.integers(len(photographs))]
    rows, columns = (np.arange(size) + rng.integers(max(n - size, 0) + 1) for n in photo.shape[:2])
    rows, columns = rows % photo.shape[0], columns % photo.shape[1]
    return photo[rows[:, None], columns[None, :]] / 255.0


def _shape(rng: np.random.Generator, at: np.ndarray, size: int) -> np.ndarray:
    """bool [h, w]: a disc, or a turned square or triangle."""
    radius = rng.uniform(*RADIUS) * size
    y, x = at - rng.uniform(0.1 * size, 0.9 * size, 2)[:, None, None]
    corners = (0, 4, 3)[rng.integers(3)]
    turn = rng.uniform(0, 2 * np.pi)
    if corners == 0:
        return y**2 + x**2 < radius**2
    angles = turn + 2 * np.pi * np.arange(corners) / corners  # of the sides' normals
    apothem = radius * (0.85 if corners == 4 else 0.6)
    return np.all([y * np.sin(a) + x * np.cos(a) < apothem for a in angles], axis=0)


def _texture(rng: np.random.Generator, at: np.ndarray, label: int) -> np.ndarray:
    """float [h, w] of 0 and 1."""
    period = rng.uniform(*PERIOD)
    y, x = (at + rng.uniform(0, period, 2)[:, None, None]) / period
    slant = np.where(rng.random() < 0.5, 1, -1)  # a flip turns one diagonal into the other
    half = lambda t: (t % 1) < 0.5
    waves = {
        "horizontal": lambda: half(y),
        "vertical": lambda: half(x),
        "diagonal": lambda: half((y + slant * x) / np.sqrt(2)),
        "checks": lambda: half(y) ^ half(x),
        "dots": lambda: np.square(y % 1 - 0.5) + np.square(x % 1 - 0.5) < 0.11,
    }
    return waves[SEGMENTS[label]]().astype(np.float64)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours that differ enough, either of which may be the brighter one."""
    while True:
        low, high = rng.uniform(0, 1, (2, 3))
        if np.abs(high - low).mean() >= CONTRAST:
            return low, high
