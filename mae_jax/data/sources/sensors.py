"""Made-up pairs of optical and radar images, of scikit-learn's handwritten digits (no download)."""

from dataclasses import dataclass

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Arrays, Source, Spec, label_phrase
from mae_jax.data.sources.digits import Digits
from mae_jax.data.transforms import resize

NOISE = 0.08  # deviation of the optical channels' noise
LOOKS = 4.0  # of the radar image: the more, the weaker the speckle (gamma noise of mean 1, variance 1 / looks)


@dataclass(frozen=True)
class Sensors(Spec):
    """Digits as two sensors see them, uint8 [size, size, optical + 2]; labels and splits are those of `digits`.

    Optical channels are random linear functions of the digit, the same for every image, with noise. The two radar
    channels are the magnitude of the digit's gradient and the digit with multiplicative speckle. Noise is drawn once
    for each image.

    Args:
        size: the side, pixels.
        optical: number of optical channels.
    """

    size: int = 24
    optical: int = 12

    def open(self, split: str) -> Source:
        if self.size < 2 or self.optical < 1:
            raise UserError(f"The sensors source needs data.size (given {self.size}) of at least 2 and data.optical "
                            f"(given {self.optical}) of at least 1.")  # fmt: skip
        digits = Digits().open(split)
        assert isinstance(digits, Arrays)
        images = np.stack([self._stack(digits.images[i], int(n)) for i, n in enumerate(digits.numbers)])
        return Pairs(images, digits.labels, "sensors", digits.classes, digits.numbers)

    def _stack(self, digit: np.ndarray, number: int) -> np.ndarray:
        """All channels of one digit [8, 8, 1]; `number` in the data set seeds its noise."""
        rng = np.random.Generator(np.random.Philox(key=[1, number]))
        x = resize(digit.astype(np.float32) / 255, (self.size, self.size))[..., 0].clip(0, 1)
        gain, offset = mixes(self.optical)
        optical = offset + gain * x[..., None] + NOISE * rng.standard_normal((*x.shape, self.optical))
        edges = np.hypot(*np.gradient(x)) * self.size / 8
        speckled = (0.1 + 0.5 * x) * rng.gamma(LOOKS, 1 / LOOKS, x.shape)
        channels = np.concatenate([optical, edges[..., None], speckled[..., None]], axis=-1)
        return np.round(255 * channels.clip(0, 1)).astype(np.uint8)


class Pairs(Arrays):
    """`Arrays` of stacks of both sensors."""

    def describe(self) -> str:
        h, w, c = self.images.shape[1:]
        return f"sensors: {len(self)} made-up pairs {h}x{w}, {c - 2} optical and 2 radar channels, {label_phrase(self)}"


def mixes(optical: int) -> tuple[np.ndarray, np.ndarray]:
    """(gain, offset) [optical] of each channel, bright and dark digits alike; values stay inside [0, 1]."""
    rng = np.random.Generator(np.random.Philox(key=[0, optical]))
    gain = rng.uniform(0.2, 0.6, optical) * rng.choice([-1, 1], optical)
    return gain, 0.5 - gain / 2
