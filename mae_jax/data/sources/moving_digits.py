"""Made-up clips of scikit-learn's handwritten digits that move with constant velocity (no download)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.base import Arrays, Source, Spec, label_phrase, split_name
from mae_jax.data.sources.digits import Digits
from mae_jax.data.video import VideoArray

SIDE = 8  # of a digit, pixels
EDGES = ("bounce", "wrap")


@dataclass(frozen=True)
class MovingDigits(Spec):
    """One digit of 8 x 8 pixels on a black canvas, uint8; the label is the digit. Clips are made when they are read.

    Clip i of a split shows digit image i % n of the n that `digits` has in that split, so that no image is in both.
    Where it starts is uniform over the canvas, its velocity uniform in [-speed, speed] along each axis; places are
    rounded to whole pixels, so that the digit itself never changes.

    Args:
        length: clips per split.
        size: side of the canvas, pixels.
        frames: of a clip.
        speed: largest velocity along an axis, pixels per frame.
        edge: what happens at the canvas's edge: "bounce" back, or "wrap" round to the other side.
    """

    length: int = 2000
    size: int = 16
    frames: int = 8
    speed: float = 2.0
    edge: str = "bounce"

    def open(self, split: str) -> Source:
        if self.size < SIDE or self.length < 1 or self.frames < 1 or self.speed < 0:
            raise UserError(
                f"The moving_digits source makes clips of data.size={self.size}, data.frames={self.frames}, "
                f"data.speed={self.speed} and data.length={self.length}: at least {SIDE} pixels, 1 frame, 0 pixels per "
                f"frame and 1 clip expected."
            )
        if self.edge not in EDGES:
            raise UserError(f"data.edge is {self.edge!r}. {nearest(self.edge, EDGES)}")
        split = split_name(split)
        digits = Digits().open(split)
        assert isinstance(digits, Arrays)
        return MovingClips(self, digits, split)


class MovingClips(Source):
    """The clips of `MovingDigits`."""

    def __init__(self, spec: MovingDigits, digits: Arrays, split: str):
        self.spec, self.digits, self.split = spec, digits, split
        self.labels = digits.labels[np.arange(spec.length) % len(digits)]
        self.classes = digits.classes

    def __getitem__(self, i: int) -> dict[str, Any]:
        digit = self.digits.images[i % len(self.digits)][..., 0]
        clip = np.zeros((self.spec.frames, self.spec.size, self.spec.size), np.uint8)
        for frame, (top, left) in zip(clip, self.places(i), strict=True):
            rows, columns = (np.arange(at, at + SIDE) % self.spec.size for at in (top, left))
            frame[rows[:, None], columns] = digit
        return {"video": VideoArray(clip), "label": int(self.labels[i])}

    def places(self, i: int) -> np.ndarray:
        """int [frames, 2]: row and column of the digit's corner in each frame of clip i."""
        rng = np.random.Generator(np.random.Philox(key=[1 + (self.split == "test"), i]))
        room = self.spec.size - SIDE if self.spec.edge == "bounce" else self.spec.size
        start, velocity = rng.uniform(0, room, 2), rng.uniform(-self.spec.speed, self.spec.speed, 2)
        path = start + np.arange(self.spec.frames)[:, None] * velocity
        if self.spec.edge == "bounce":
            path = room - np.abs(path % (2 * room) - room) if room else np.zeros_like(path)
            return np.rint(path).astype(int)
        return np.rint(path).astype(int) % self.spec.size

    def name(self, i: int) -> str:
        return f"moving_digits {self.split} #{i}"

    def describe(self) -> str:
        size = self.spec.size
        return (
            f"moving_digits: {len(self)} made-up clips of {self.spec.frames} frames {size}x{size} ({self.split}), "
            f"{label_phrase(self)}"
        )
