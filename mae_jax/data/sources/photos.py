"""scikit-learn's two bundled photographs (no download), for pictures that are worth looking at."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec, split_name

# The left part of each photograph trains, the right part tests: no pixel is in both. Here both have some of temple and
# flower, so that the held-out part is worth reconstructing.
TRAIN_COLUMNS = 0.45
WINDOW = (80, 144)  # smallest and largest side of a test window, pixels


@dataclass(frozen=True)
class Photos(Spec):
    """Photographs of a Chinese temple and of a flower (427 x 640), each standing for many random crops.

    Args:
        crops: how many items a split has. Item i is photograph i % 2. In "train" it is the photograph's left 45 %,
            whole: the random crop is the pipeline's. In "test" it is a square window of the right 55 %, a fixed
            one for each i.
    """

    crops: int = 4096

    def open(self, split: str) -> Source:
        if self.crops < 1:
            raise UserError(f"data.crops is {self.crops}: the photos source needs at least 1.")
        from sklearn.datasets import load_sample_images  # slow to import

        data = load_sample_images()
        edge = round(data.images[0].shape[1] * TRAIN_COLUMNS)
        train = split_name(split) == "train"
        parts = [np.ascontiguousarray(p[:, :edge] if train else p[:, edge:]) for p in data.images]
        return PhotoParts(parts, tuple(Path(f).stem for f in data.filenames), self.crops, whole=train)


class PhotoParts(Source):
    """`parts` [h, w, 3] uint8 in turn: whole, or as square windows set by the item's number."""

    def __init__(self, parts: list[np.ndarray], classes: tuple[str, ...], length: int, whole: bool):
        self.pictures = parts
        self.classes = classes
        self.whole = whole
        self.labels = (np.arange(length) % len(parts)).astype(np.int32)

    def image(self, i: int) -> np.ndarray:
        part = self.pictures[self.labels[i]]
        if self.whole:
            return part
        top, left, side = window(i, *part.shape[:2])
        return part[top : top + side, left : left + side]

    def name(self, i: int) -> str:
        return f"photos {self.classes[self.labels[i]]} #{i}"

    def describe(self) -> str:
        h, w, c = self.pictures[0].shape
        what = "left part" if self.whole else "windows of the right part"
        return f"photos: {len(self)} views of {len(self.pictures)} photographs, {what} ({h}x{w}x{c} uint8)"


def window(i: int, h: int, w: int) -> tuple[int, int, int]:
    """(top, left, side) of the i-th square window in an h x w image, from the item's number alone."""
    rng = np.random.Generator(np.random.Philox(key=[0, i]))
    side = min(int(rng.integers(WINDOW[0], WINDOW[1] + 1)), h, w)
    return int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1)), side
