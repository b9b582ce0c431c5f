"""A clip out of a record's video on the host: which frames, which part of them; uint8, so that little travels."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data import frame_sampling as sampling
from mae_jax.data.multi_scale_crop import SCALES, crop_offsets, crop_pairs
from mae_jax.data.randaugment import RandAugment
from mae_jax.data.resize import resize
from mae_jax.data.transforms import RATIO, SCALE, Box, Pair, cover, crop, crop_box, flip, resize_and_center_crop
from mae_jax.data.video import as_video
from mae_jax.data.views import Draw, missing

CROPS = ("multi_scale", "resized", "centre")


@dataclass(frozen=True)
class VideoClip:
    """A clip uint8 [t, h, w, 3] of the record's video of the leaf's own name.

    Frames are drawn once for all repeats of a record; crop, flip and RandAugment once for all frames of a clip.

    Attributes:
        shape: (t, h, w) of the clip.
        stride: frames between two of the clip, where they are dense.
        sampling: "dense" or "sparse" (data/frame_sampling.py).
        crop: "multi_scale" (VideoMAE's: data/multi_scale_crop.py), "resized" (Inception's random-resized crop) or
            "centre" (nothing random: as in evaluation).
        scales: of the multi-scale crop.
        crop_scale, crop_ratio: bounds of the random-resized crop.
        flip: mirror half of the clips.
        randaugment, background: as `randaugment` and `fill` of `HostAugment`.
        resample: "bicubic", "bilinear" or "lanczos".
        crop_fraction: share of the resized frame that evaluation cuts from its middle.
        view: None: train. Else which of views[0] clips x views[1] crops of an evaluation, crops running faster.
        views: clips evenly over the video, crops evenly along the longer side; one of each: the middle.
        stream: which of the pipeline's random streams it draws from.
    """

    shape: tuple[int, int, int]
    stride: int = 4
    sampling: str = "dense"
    crop: str = "multi_scale"
    scales: tuple[float, ...] = SCALES
    crop_scale: Pair = SCALE
    crop_ratio: Pair = RATIO
    flip: bool = False
    randaugment: str | None = None
    background: tuple[int, int, int] = (124, 116, 104)
    resample: str = "bilinear"
    crop_fraction: float = 1.0
    view: int | None = None
    views: tuple[int, int] = (1, 1)
    stream: int = 0

    def __post_init__(self) -> None:
        for key, names in (("sampling", sampling.SAMPLINGS), ("crop", CROPS)):
            if getattr(self, key) not in names:
                raise UserError(f"augment.video_{key} is '{getattr(self, key)}'. {nearest(getattr(self, key), names)}")

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray:
        """Raises BadImage for a video that cannot be used."""
        if name not in record:
            raise missing(name, record)
        video = as_video(record[name])
        if self.view is not None:
            return self._evaluated(video.frames(self._view_frames(len(video), self.view // self.views[1])))
        frames = video.frames(self._drawn_frames(len(video), draw))
        return self._augmented(frames, draw(self.stream))

    def _drawn_frames(self, length: int, draw: Draw) -> np.ndarray:
        rng = getattr(draw, "record", draw)(self.stream)  # a bare Draw repeats nothing
        if self.sampling == "dense":
            return sampling.dense(length, self.shape[0], self.stride, rng)
        return sampling.sparse(length, self.shape[0], rng)

    def _view_frames(self, length: int, clip: int) -> np.ndarray:
        if self.sampling == "dense":
            return sampling.dense_view(length, self.shape[0], self.stride, clip, self.views[0])
        return sampling.sparse_view(length, self.shape[0], clip, self.views[0])

    def _augmented(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size = self.shape[1:]
        if self.crop == "centre":
            frames = self._centred(frames)
        else:  # cut before resizing: pixels outside do not reach the result
            box = self._box(frames.shape[1], frames.shape[2], rng)
            frames = np.stack([resize(crop(x, box), size, resample=self.resample) for x in frames])
        if self.flip and rng.random() < 0.5:
            frames = np.stack([flip(x) for x in frames])
        if self.randaugment is not None:
            policy = RandAugment.of(self.randaugment, self.background, self.resample)
            frames = np.stack([policy(x, copy.deepcopy(rng)) for x in frames])  # the same draws for all
        return frames

    def _box(self, h: int, w: int, rng: np.random.Generator) -> Box:
        if self.crop == "resized":
            return crop_box(h, w, rng, self.crop_scale, self.crop_ratio)
        pairs = crop_pairs(h, w, self.shape[1:], self.scales)
        width, height = (int(x) for x in pairs[rng.integers(len(pairs))])
        offsets = crop_offsets(h, w, height, width)
        left, top = (int(x) for x in offsets[rng.integers(len(offsets))])
        return top, left, height, width

    def _centred(self, frames: np.ndarray) -> np.ndarray:
        size = self.shape[1:]
        return np.stack([resize_and_center_crop(x, size, self.crop_fraction, self.resample) for x in frames])

    def _evaluated(self, frames: np.ndarray) -> np.ndarray:
        assert self.view is not None
        k, crops = self.view % self.views[1], self.views[1]
        if crops == 1:
            return self._centred(frames)
        h, w = self.shape[1:]
        scaled = cover(frames.shape[1:3], (h, w))
        # Whole pixels from the start of the longer side, truncated; along the other side there is no room.
        top, left = (int(k * (there - wanted) / (crops - 1)) for there, wanted in zip(scaled, (h, w), strict=True))
        return np.stack([crop(resize(x, scaled, resample=self.resample), (top, left, h, w)) for x in frames])
