"""A random crop of a volume on the host, so that only the crop travels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.views import Draw, missing

TRIES = 64  # voxels drawn before all that qualify are listed


@dataclass(frozen=True)
class VolumeCrop:
    """A crop of `shape` [d, h, w, c] out of the record's volume of the leaf's own name.

    MONAI's RandCropByPosNegLabel with the image as its own label, as Hi-End-MAE uses it: the centre is a voxel that is
    not 0 with probability `positive`, else one that is 0 (any of the other kind where there is none); a crop that
    would stick out is moved inside.

    Attributes:
        positive: probability; None: no random crop, the middle.
        stream: which of the pipeline's random streams it draws from.
    """

    shape: tuple[int, ...]
    dtype: str
    positive: float | None
    stream: int = 0

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray:
        if name not in record:
            raise missing(name, record)
        volume = np.asarray(record[name])
        if (
            volume.ndim != len(self.shape)
            or volume.shape[-1] != self.shape[-1]
            or np.less(volume.shape, self.shape).any()
        ):
            raise UserError(
                f"the data give '{name}' of shape {volume.shape}, of which no crop {self.shape} can be cut: set the "
                f"method's sizes (method.*) or the data's so that the volume is at least as large along each axis."
            )
        room = np.subtract(volume.shape, self.shape)
        if self.positive is None:
            start = room // 2
        else:
            rng = draw(self.stream)
            centre = _voxel(volume, rng, rng.random() < self.positive)
            start = np.clip(centre - np.array(self.shape) // 2, 0, room)
        cut = volume[tuple(slice(s, s + n) for s, n in zip(start, self.shape))]
        return np.ascontiguousarray(cut, self.dtype)


def _voxel(volume: np.ndarray, rng: np.random.Generator, positive: bool) -> np.ndarray:
    """A voxel [d, h, w, c] drawn uniformly from those that are not 0 (`positive`) or are; from all where none is so."""
    for _ in range(TRIES):  # rejection has the same law as drawing from a list, and need not look at every voxel
        at = np.array([rng.integers(n) for n in volume.shape])
        if (volume[tuple(at)] != 0) == positive:
            return at
    listed = np.flatnonzero((volume != 0) == positive)
    if not len(listed):
        return at
    return np.array(np.unravel_index(listed[rng.integers(len(listed))], volume.shape))
