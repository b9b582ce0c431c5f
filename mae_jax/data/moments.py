"""Mean and standard deviation per channel over many images, exact, whatever the order in which they are added."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from mae_jax.data.decode import SCALE

BAND = 1 << 16  # pixels summed at a time: their intermediate results stay in the processor's cache


@dataclass(frozen=True)
class Moments:
    """Sums over the pixels of images, in units in which white is 1. `Moments() + m == m`.

    Integer images are summed as integers, so the results are exact. A float image is summed in float64, and images
    are added as fractions: what comes out does not depend on the order or the grouping either.

    Attributes:
        pixels: how many.
        sums, squares: per channel, of the values and of their squares.
    """

    pixels: int = 0
    sums: tuple[Fraction, ...] = ()
    squares: tuple[Fraction, ...] = ()

    @classmethod
    def of(cls, image: np.ndarray) -> "Moments":
        """The moments of one image [h, w, c] of uint8, uint16 or float32. Raises ValueError for another dtype."""
        if image.dtype.name not in SCALE or image.ndim != 3:
            raise ValueError(f"an image [h, w, c] of {', '.join(SCALE)} expected, not {image.dtype} {image.shape}")
        pixels = image.reshape(-1, image.shape[2])
        kind = np.float64 if image.dtype.kind == "f" else np.uint64
        sums, squares = np.zeros(image.shape[2], kind), np.zeros(image.shape[2], kind)
        for start in range(0, len(pixels), BAND):
            # Of 2^16 pixels a uint32 holds the sums, and of 8 bits the squares too (255^2 * 2^16 < 2^32).
            band = np.ascontiguousarray(pixels[start : start + BAND].T)  # sums along rows are several times faster
            wide = band.astype({1: np.uint32, 2: np.uint64, 4: np.float64}[image.dtype.itemsize])
            sums += wide.sum(1)
            squares += np.einsum("cn,cn->c", wide, wide)
        white = Fraction(SCALE[image.dtype.name])
        return cls(
            len(pixels),
            tuple(Fraction(v) / white for v in sums.tolist()),
            tuple(Fraction(v) / white**2 for v in squares.tolist()),
        )

    def __add__(self, other: "Moments") -> "Moments":
        if not self.pixels or not other.pixels:
            return self if self.pixels else other
        if len(self.sums) != len(other.sums):
            raise ValueError(f"moments of {len(self.sums)} and of {len(other.sums)} channels do not add up")
        return Moments(
            self.pixels + other.pixels,
            tuple(a + b for a, b in zip(self.sums, other.sums)),
            tuple(a + b for a, b in zip(self.squares, other.squares)),
        )

    @property
    def mean(self) -> np.ndarray:
        """Per channel, float64 [c]; white is 1."""
        return np.array([float(s / self.pixels) for s in self.sums])

    @property
    def std(self) -> np.ndarray:
        """Per channel, over all pixels (divided by their number), float64 [c]; white is 1."""
        variances = [q / self.pixels - (s / self.pixels) ** 2 for s, q in zip(self.sums, self.squares)]
        return np.sqrt([max(0.0, float(v)) for v in variances])

    def to_json(self) -> dict[str, Any]:
        """The sums as text "numerator/denominator", which loses nothing, and mean and std for people."""
        return {
            "pixels": self.pixels,
            "sums": [str(s) for s in self.sums],
            "squares": [str(s) for s in self.squares],
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Moments":
        """What `to_json` gave."""
        return cls(data["pixels"], tuple(map(Fraction, data["sums"])), tuple(map(Fraction, data["squares"])))
