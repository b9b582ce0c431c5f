"""An image and the classes of its pixels under one random geometry: scale, crop, flip (mmsegmentation's recipe).

Two leaves of one record draw from the same stream, so they get the same geometry: the image is resized with
antialiasing, the classes take the nearest pixel. Where the crop sticks out of a small image, the image is filled with
one colour and the classes with IGNORE.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.annotation import IGNORE, MAX_CLASSES, Annotation
from mae_jax.data.decode import convert
from mae_jax.data.limits import BadImage
from mae_jax.data.picture import Picture
from mae_jax.data.resize import Real, resize
from mae_jax.data.transforms import crop, flip
from mae_jax.data.views import Draw, missing

TRIES = 10  # crops drawn before one is taken in which a class has more than its share
LONGEST = 4  # times `short`, at most, is the longer side of a resized image (mmseg: scale (2048, 512))


class Geometry(NamedTuple):
    """What happens to one sample.

    Attributes:
        scaled: (height, width) to which the whole image is resized.
        box: (top, left, height, width) cut from that.
        mirrored: whether left and right are exchanged.
    """

    scaled: tuple[int, int]
    box: tuple[int, int, int, int]
    mirrored: bool


@dataclass(frozen=True)
class SceneAugment:
    """The law of a training sample's geometry.

    Attributes:
        size: (height, width) of what comes out.
        short: the shorter side to which images are brought first; None: each as it is.
        scale: bounds of the factor, uniform, by which it is then resized.
        max_ratio: a crop in which one class has this share of the labelled pixels or more, or in which there is but
            one class, is drawn again, up to 10 times (mmseg's cat_max_ratio); 1: never.
        flip: exchange left and right half of the time.
    """

    size: tuple[int, int]
    short: int | None = None
    scale: tuple[Real, Real] = (0.5, 2.0)
    max_ratio: Real = 0.75
    flip: bool = True

    def __post_init__(self):
        if min(self.size) < 1 or (self.short is not None and self.short < 1):
            raise UserError(f"transfer.segment_size={self.size} and segment_short={self.short}: pixels, at least 1.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"transfer.segment_scale={self.scale}: two factors, 0 < smallest <= largest, expected.")
        if not 0 < self.max_ratio <= 1:
            raise UserError(f"transfer.segment_max_ratio={self.max_ratio}: a share, above 0 and at most 1, expected.")

    def draw(self, labels: np.ndarray, rng: np.random.Generator) -> Geometry:
        """The geometry of a sample with classes `labels` [h, w]."""
        h, w = labels.shape
        factor = rng.uniform(*self.scale) * (1.0 if self.short is None else short_factor(h, w, self.short))
        scaled = (max(1, round(h * factor)), max(1, round(w * factor)))
        box = self._box(scaled, rng)
        for _ in range(TRIES if self.max_ratio < 1 else 0):
            if mixed(nearest_pixels(labels, scaled, box), self.max_ratio):
                break
            box = self._box(scaled, rng)
        return Geometry(scaled, box, self.flip and bool(rng.random() < 0.5))

    def _box(self, scaled: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        height, width = (min(a, b) for a, b in zip(self.size, scaled, strict=True))
        top, left = rng.integers(scaled[0] - height + 1), rng.integers(scaled[1] - width + 1)
        return int(top), int(left), height, width


@dataclass(frozen=True)
class SceneImage:
    """The image of a training sample, uint8 [h, w, channels]; `beyond` is the colour beyond the image, 0..255."""

    augment: SceneAugment
    channels: int = 3
    beyond: tuple[int, ...] = (124, 116, 104)
    stream: int = 0

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray:
        image, labels = pair(record, self.channels)
        scaled, box, mirrored = self.augment.draw(labels, draw(self.stream))
        image = cut(image, scaled, box)
        out = np.empty((*self.augment.size, self.channels), np.uint8)
        out[...] = self.beyond
        out[: box[2], : box[3]] = flip(image) if mirrored else image
        return out


@dataclass(frozen=True)
class SceneLabels:
    """The classes of a training sample's pixels, uint8 [h, w]."""

    augment: SceneAugment
    stream: int = 0

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray:
        labels = annotation(record).labels
        scaled, box, mirrored = self.augment.draw(labels, draw(self.stream))
        found = nearest_pixels(labels, scaled, box)
        out = np.full(self.augment.size, IGNORE, np.uint8)
        out[: box[2], : box[3]] = found[:, ::-1] if mirrored else found
        return out


def annotation(record: Mapping[str, Any]) -> Annotation:
    """A record's annotation; an array stands for one of uint8 classes."""
    if "segmentation" not in record:
        raise missing("segmentation", record)
    found = record["segmentation"]
    return found if isinstance(found, Annotation) else Annotation(found, "the record", MAX_CLASSES)


def pair(record: Mapping[str, Any], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(image uint8 [h, w, channels], classes uint8 [h, w]). Raises BadImage, also where their sizes differ."""
    if "image" not in record:
        raise missing("image", record)
    image = convert(Picture.of(record["image"]).pixels(channels), "uint8")
    labels = annotation(record).labels
    if image.shape[:2] != labels.shape:
        raise BadImage(
            f"the image has {image.shape[0]} x {image.shape[1]} pixels, its annotation "
            f"{labels.shape[0]} x {labels.shape[1]}"
        )
    return image, labels


def short_factor(h: int, w: int, short: int) -> float:
    """The factor that makes the shorter side `short`, but the longer one no more than LONGEST times that."""
    return min(short / min(h, w), LONGEST * short / max(h, w))


def brought(image: np.ndarray, short: int | None) -> np.ndarray:
    """An image as evaluation sees it: its shorter side brought to `short`; None: as it is."""
    if short is None:
        return image
    h, w = image.shape[:2]
    factor = short_factor(h, w, short)
    return resize(image, (max(1, round(h * factor)), max(1, round(w * factor))), resample="bilinear")


def cut(image: np.ndarray, scaled: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """`box` of the image resized to `scaled`, computed from the pixels that it needs."""
    h, w = image.shape[:2]
    if scaled == (h, w):
        return crop(image, box)
    y, x = h / scaled[0], w / scaled[1]
    top, left = box[0] * y, box[1] * x
    part = (top, left, min(box[2] * y, h - top), min(box[3] * x, w - left))
    return resize(image, (box[2], box[3]), part, resample="bilinear")


def nearest_pixels(labels: np.ndarray, scaled: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """`box` of `labels` [h, w] resized to `scaled`: each pixel takes the class at its centre."""
    rows, columns = (
        np.minimum(((np.arange(n) + start + 0.5) * old / new).astype(np.int64), old - 1)
        for start, n, old, new in zip(box[:2], box[2:], labels.shape, scaled, strict=True)
    )
    return labels[rows[:, None], columns[None, :]]


def mixed(labels: np.ndarray, max_ratio: Real) -> bool:
    """Whether there are two classes or more, none with `max_ratio` of the labelled pixels or more."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return bool((counts > 0).sum() > 1 and counts.max() < max_ratio * counts.sum())
