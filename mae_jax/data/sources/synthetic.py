"""Made-up images of any size and number of channels, for smoke tests and for measuring speed."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec, label_phrase, split_name

WAVES = 4  # plane waves per class
MAX_CYCLES = 3  # across the image, so that neighbouring pixels tell about each other
NOISE = 0.1  # standard deviation, of the unit-variance field


@dataclass(frozen=True)
class Synthetic(Spec):
    """Smooth random fields, uint8: a class is a set of plane waves, an item draws their phases and a little noise.

    Args:
        size: the side, or (height, width), pixels.
        channels: channels per image.
        length: images per split (the two splits differ in every phase).
        classes: number of classes; item i belongs to class i % classes.
    """

    size: Any = 32
    channels: int = 3
    length: int = 1024
    classes: int = 10

    def open(self, split: str) -> Source:
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        if len(size) != 2 or min(*size, self.channels, self.length, self.classes) < 1:
            raise UserError(
                "The synthetic source needs data.size (a side or a pair), channels, length and classes of at least 1: "
                f"given size={self.size}, channels={self.channels}, length={self.length}, classes={self.classes}."
            )
        return Fields(size, self.channels, self.length, self.classes, split_name(split))


class Fields(Source):
    """The images of `Synthetic`, each computed when asked from (split, its number)."""

    def __init__(self, size: tuple[int, int], channels: int, length: int, classes: int, split: str):
        self.size, self.channels, self.split = size, channels, split
        self.classes = tuple(f"waves {c}" for c in range(classes))
        self.labels = (np.arange(length) % classes).astype(np.int32)

    def image(self, i: int) -> np.ndarray:
        h, w = self.size
        label = int(self.labels[i])
        cycles, weights = class_waves(label, self.channels)
        rng = np.random.Generator(np.random.Philox(key=[1 + (self.split == "test"), i]))
        phase = rng.uniform(0, 1, WAVES)
        # cos(y + x + phase) as the real part of a product: two small matrix products instead of h w cosines a wave
        rows = np.exp(2j * np.pi * (np.outer(np.arange(h) / h, cycles[:, 0]) + phase))
        columns = np.exp(2j * np.pi * np.outer(np.arange(w) / w, cycles[:, 1]))
        field = np.einsum("hk,wk,kc->hwc", rows, columns, weights, optimize=True).real
        field += NOISE * rng.standard_normal(field.shape, np.float32)
        return np.clip(128 + 50 * field, 0, 255).astype(np.uint8)

    def name(self, i: int) -> str:
        return f"synthetic {self.split} #{i}"

    def describe(self) -> str:
        h, w = self.size
        return f"synthetic: {len(self)} smooth fields {h}x{w}x{self.channels} uint8, {label_phrase(self)}"


def class_waves(label: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(cycles [WAVES, 2] across the image, weights [WAVES, channels] giving each channel unit variance)."""
    rng = np.random.Generator(np.random.Philox(key=[0, label]))
    cycles = rng.integers(-MAX_CYCLES, MAX_CYCLES + 1, (WAVES, 2))
    weights = rng.standard_normal((WAVES, channels))
    return cycles, weights * np.sqrt(2 / np.square(weights).sum(0, keepdims=True))
