"""Transforms of one sample on the host, every draw from a np.random.Generator that is passed in.

Images are [h, w, c] of uint8, uint16 or float32; sizes are (height, width); boxes are (top, left, height, width).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.decode import convert
from mae_jax.data.libraries import library
from mae_jax.data.picture import Picture
from mae_jax.data.randaugment import RandAugment
from mae_jax.data.resize import KERNELS, Real, resize

Box = tuple[int, int, int, int]
Pair = tuple[Real, Real]

SCALE: Pair = (0.2, 1.0)  # MAE's pretraining crop
RATIO: Pair = (3 / 4, 4 / 3)
TRIES = 10
SHRINK_MARGIN = 2  # a JPEG may be decoded smaller while the crop keeps twice the output's size


def crop_box(h: int, w: int, rng: np.random.Generator, scale: Pair = SCALE, ratio: Pair = RATIO) -> Box:
    """The box of Inception's random-resized crop (Szegedy et al. 2014), by torchvision's rule.

    Area uniform in `scale` (of the image's), width / height log-uniform in `ratio`, sides rounded; drawn again up to
    10 times until it lies inside, then placed uniformly. After that: the largest centred box with a ratio in bounds.
    """
    for _ in range(TRIES):
        height, width = _sides(h, w, rng, scale, ratio)
        if 0 < height <= h and 0 < width <= w:
            return _place(h, w, height, width, rng)
    width = min(w, round(h * ratio[1])) if w > h * ratio[1] else w
    height = min(h, round(w / ratio[0])) if w < h * ratio[0] else h
    return (h - height) // 2, (w - width) // 2, height, width


def crop_box_single_draw(
    h: int, w: int, rng: np.random.Generator, scale: Pair = (0.08, 1.0), ratio: Pair = RATIO
) -> Box:
    """The crop of MAE's linear probe (from BYOL): one draw of area and ratio, sides clipped to the image."""
    height, width = _sides(h, w, rng, scale, ratio)
    return _place(h, w, min(max(height, 1), h), min(max(width, 1), w), rng)


def _sides(h: int, w: int, rng: np.random.Generator, scale: Pair, ratio: Pair) -> tuple[int, int]:
    area = h * w * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))


def _place(h: int, w: int, height: int, width: int, rng: np.random.Generator) -> Box:
    return (int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1)), height, width)


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def random_resized_crop(
    image: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    scale: Pair = SCALE,
    ratio: Pair = RATIO,
) -> np.ndarray:
    """`crop_box`, then `resize` to `size`. Cut first: pixels outside the box do not reach the result."""
    h, w = image.shape[:2]
    return resize(crop(image, crop_box(h, w, rng, scale, ratio)), size)


def flip(image: np.ndarray) -> np.ndarray:
    """Left and right exchanged, in memory too: copied later, a view backwards over [w, c] takes seven times as long."""
    cv2 = library("cv2")
    if cv2 is not None and image.dtype.name in ("uint8", "uint16", "float32"):
        return cv2.flip(np.ascontiguousarray(image), 1).reshape(image.shape)
    out = np.empty_like(image, order="C")
    for channel in range(image.shape[2]):
        out[..., channel] = image[:, ::-1, channel]
    return out


def padded_crop(
    image: np.ndarray, size: tuple[int, int], pad: int, rng: np.random.Generator, resample: str = "bicubic"
) -> np.ndarray:
    """Scale until the image just covers `size`, reflect `pad` pixels round it, cut `size` out anywhere (LUT).

    Draws: top, left.
    """
    image = resize(image, cover(image.shape[:2], size), resample=resample)
    image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    h, w = image.shape[:2]
    return crop(image, _place(h, w, *size, rng))


def cover(old: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size of an image of shape `old` that covers `size` and keeps its aspect (sides truncated)."""
    h, w = old
    return (size[0], size[0] * w // h) if h * size[1] <= w * size[0] else (size[1] * h // w, size[1])


def resize_and_center_crop(
    image: np.ndarray, size: tuple[int, int], crop_fraction: Real = 0.875, resample: str = "bicubic"
) -> np.ndarray:
    """The evaluation transform: scale until the image just covers size / crop_fraction, then cut the middle.

    At 224 this is "short side 256, centre 224". An image of exactly `size` comes back untouched.
    """
    h, w = image.shape[:2]
    if (h, w) == tuple(size):
        return image
    scaled = cover((h, w), (round(size[0] / crop_fraction), round(size[1] / crop_fraction)))
    top, left = round((scaled[0] - size[0]) / 2), round((scaled[1] - size[1]) / 2)
    return crop(resize(image, scaled, resample=resample), (top, left, *size))


@dataclass(frozen=True)
class HostAugment:
    """What the host does to one record: decode, crop, resize, flip. Colours and normalisation are the device's.

    Attributes:
        size: (height, width) of what comes out.
        channels: number of channels.
        crop_scale: bounds of the random crop's area as a share of the image; None: `resize_and_center_crop`.
        crop_ratio: bounds of the random crop's width / height.
        flip: exchange left and right half of the time.
        pad: instead of a random crop: `padded_crop` by so many pixels.
        resample: "bicubic", "bilinear" or "lanczos".
        single_draw: `crop_box_single_draw` in the place of `crop_box`.
        crop_fraction: for `resize_and_center_crop`.
        dtype: "uint8", "uint16" or "float32" for every image alike, or None: as each image has it.
        randaugment: timm's policy for fine-tuning after crop and flip, as "rand-m9-mstd0.5-inc1" (data/randaugment.py);
            it turns with `resample`. uint8 RGB only.
        fill: colour 0..255 of what RandAugment moves into view; default: the mean of ImageNet.
        exact: decode JPEGs accurately for random crops too; by default these take the quick transforms, 42 to 44 dB
            beside the accurate ones. Everything without a random crop (evaluation) is exact always.
    """

    size: tuple[int, int]
    channels: int = 3
    crop_scale: Pair | None = SCALE
    crop_ratio: Pair = RATIO
    flip: bool = True
    single_draw: bool = False
    crop_fraction: Real = 0.875
    dtype: str | None = None
    pad: int = 0
    resample: str = "bicubic"
    randaugment: str | None = None
    fill: tuple[int, int, int] = (124, 116, 104)
    exact: bool = False

    def __post_init__(self):
        if len(self.size) != 2 or min(self.size) < 1 or self.channels < 1:
            raise UserError(f"Images of size {self.size} with {self.channels} channels: a pair (height, width) and a "
                            "number of channels, all of at least 1, expected.")  # fmt: skip
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(f"augment.crop_scale is {self.crop_scale}: two shares of the image's area, "
                            "0 < smallest <= largest <= 1, or None for no random crop, expected.")  # fmt: skip
        if self.pad < 0 or (self.pad and self.crop_scale is not None):
            raise UserError(f"augment.pad={self.pad} is a number of pixels of at least 0, and stands in the place of a "
                            "random crop: set augment.crop_scale=None with it.")  # fmt: skip
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise UserError(f"augment.crop_ratio is {self.crop_ratio}: two ratios of width to height, "
                            "0 < smallest <= largest, expected.")  # fmt: skip
        if self.resample not in KERNELS:
            raise UserError(f"There is no interpolation '{self.resample}'. {nearest(self.resample, KERNELS)}")
        if self.randaugment is not None:
            if self.channels != 3 or self.dtype not in (None, "uint8"):
                raise UserError(f"augment.randaugment works on uint8 RGB; the images here have {self.channels} "
                                f"channels of {self.dtype or 'uint8'}. Set augment.randaugment=None.")  # fmt: skip
            self._policy()

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
        """`record["image"]` (Picture, encoded bytes or array) -> [h, w, channels]. Raises BadImage."""
        picture = Picture.of(record["image"])
        if self.pad:
            image = padded_crop(picture.pixels(self.channels), self.size, self.pad, rng, self.resample)
        elif self.crop_scale is None:
            image = picture.pixels(self.channels)
            image = resize_and_center_crop(image, self.size, self.crop_fraction, self.resample)
        else:
            image = self._random_crop(picture, self.crop_scale, rng)
        if self.flip and rng.random() < 0.5:
            image = flip(image)
        if self.dtype is not None:
            image = convert(image, self.dtype)
        return image if self.randaugment is None else self._policy()(image, rng)

    def _policy(self) -> RandAugment:
        assert self.randaugment is not None
        return RandAugment.of(self.randaugment, self.fill, self.resample)

    def _random_crop(self, picture: Picture, scale: Pair, rng: np.random.Generator) -> np.ndarray:
        sample = crop_box_single_draw if self.single_draw else crop_box
        if not picture.scalable:
            image = picture.pixels(self.channels)
            h, w = image.shape[:2]
            return resize(crop(image, sample(h, w, rng, scale, self.crop_ratio)), self.size, resample=self.resample)
        # The box is drawn from the header's size, so that a large JPEG need not be decoded at full size.
        h, w = picture.size
        box = sample(h, w, rng, scale, self.crop_ratio)
        shrink = jpeg_shrink(box, self.size)
        return resize_shrunk(picture.pixels(self.channels, shrink, self.exact), box, shrink, self.size, self.resample)


def jpeg_shrink(box: Box, size: tuple[int, int]) -> int:
    """The largest of 8, 4, 2, 1 by which a crop may shrink and still be SHRINK_MARGIN times `size`."""
    room = min(box[2] / size[0], box[3] / size[1]) / SHRINK_MARGIN
    return next((s for s in (8, 4, 2) if room >= s), 1)


def resize_shrunk(
    image: np.ndarray, box: Box, shrink: int, size: tuple[int, int], resample: str = "bicubic"
) -> np.ndarray:
    """`box` of the full image, resized, where `image` is that image at 1/shrink.

    The cut is at whole pixels, the resizing to the box's exact edges, so the crop does not move.
    """
    if shrink == 1:
        return resize(crop(image, box), size, resample=resample)
    h, w = image.shape[:2]
    top, left, bottom, right = (e / shrink for e in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    y, x = math.floor(top), math.floor(left)
    cut = image[y : math.ceil(min(bottom, h)), x : math.ceil(min(right, w))]
    return resize(cut, size, (top - y, left - x, min(bottom, h) - top, min(right, w) - left), resample)
