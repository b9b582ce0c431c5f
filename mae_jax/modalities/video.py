"""Videos [t, h, w, 3]: the host samples and crops frames and sends uint8; the device normalises and erases."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Array

from mae_jax.augment.erase import erase
from mae_jax.augment.normalise import normalise
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.data.multi_scale_crop import SCALES
from mae_jax.data.randaugment import mean_colour
from mae_jax.data.transforms import SCALE
from mae_jax.data.video import as_video
from mae_jax.data.video_clip import VideoClip
from mae_jax.data.views import HostLeaf
from mae_jax.methods.base import Leaf
from mae_jax.modalities.base import Modality
from mae_jax.tokens.film import film_strip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video(Modality):
    """Clips. The defaults are VideoMAE's pretraining on Kinetics.

    Attributes:
      stride: frames between two of a dense clip.
      sampling: "dense", every `stride`-th frame from a random start; "sparse", one of each of as many equal segments
        as the clip has frames (Something-Something). In evaluation the middle of the video, of its segments.
      crop: of training, one for all frames: "multi_scale" (VideoMAE's pretraining); "resized", the random-resized crop
        of augment.crop_scale and crop_ratio (fine-tuning); "centre", none: as in evaluation.
      scales: of the multi-scale crop, shares of the shorter side.
      flip: mirror half of the clips.
      test_clips, test_crops: over how many of each an evaluation of classifiers votes: clips evenly over the video,
        crops evenly along the longer side of frames whose shorter one fits. The middle one of each comes first, and is
        what other evaluations see; a single crop is cut by augment.eval_crop.
    """

    kind: ClassVar[str] = "video"
    heeds: ClassVar[tuple[str, ...]] = ("mean", "std", "randaugment", "erase", "mixup", "cutmix")
    kept: ClassVar[tuple[str, ...]] = ("stride", "sampling", "test_clips", "test_crops")
    tuned: ClassVar[Mapping[str, Any]] = {"crop": "resized", "flip": True}

    stride: int = 4
    sampling: Literal["dense", "sparse"] = "dense"
    crop: Literal["multi_scale", "resized", "centre"] = "multi_scale"
    scales: tuple[float, ...] = SCALES
    flip: bool = False
    test_clips: int = 1
    test_crops: int = 1

    def check(self, name: str, leaf: Leaf) -> None:
        if len(leaf.shape) != 4 or leaf.shape[-1] != 3:
            raise UserError(f"videos have colours: '{name}' [frames, height, width, 3] expected, not {leaf.shape}.")
        if self.stride < 1:
            raise self.wrong("stride", "at least 1 frame expected")
        if not self.scales or not all(0 < s <= 1 for s in self.scales):
            raise self.wrong("scales", "shares of the shorter side, 0 < share <= 1, expected")
        for key in ("test_clips", "test_crops"):
            if getattr(self, key) < 1:
                raise self.wrong(key, "at least 1 expected")
        if self.crop == "resized" and self.augment.crop_scale is None:
            raise self.wrong("crop", "a random-resized crop needs augment.crop_scale, which is None; or take 'centre'")
        if self.augment.normalise != "fixed":
            raise UserError(f"augment.normalise='{self.augment.normalise}': videos are normalised by 'fixed' numbers.")

    def views(self, name: str, leaf: Leaf) -> int:
        return self.test_clips * self.test_crops

    def host(self, name: str, leaf: Leaf, train: bool, stream: int, view: int = 0) -> HostLeaf:
        a, clips, crops = self.augment, self.test_clips, self.test_crops
        red, green, blue = mean_colour(a.mean)
        clip, crop = divmod(view, crops)
        first = (clip + clips // 2) % clips, (crop + crops // 2) % crops  # view 0 is the middle
        return VideoClip(
            shape=(leaf.shape[0], leaf.shape[1], leaf.shape[2]), stride=self.stride, sampling=self.sampling,
            crop=self.crop, scales=self.scales, crop_scale=a.crop_scale or SCALE, crop_ratio=a.crop_ratio,
            flip=self.flip, randaugment=a.randaugment if train else None, background=(red, green, blue),
            resample=leaf.resample if leaf.resample != Leaf.resample else a.interpolation, crop_fraction=a.eval_crop,
            view=None if train else first[0] * crops + first[1], views=(clips, crops), stream=stream,
        )  # fmt: skip

    def travels(self, name: str, leaf: Leaf) -> Mapping[str, Leaf]:
        return {name: dataclasses.replace(leaf, dtype="uint8")}

    def device(self, name: str, leaf: Leaf, batch: Mapping[str, Array], ctx: Context | None) -> Array:
        x = normalise(batch[name], *self.colours(leaf))
        return erase(x, ctx, name, self.augment.erase) if ctx is not None and self.augment.erase else x

    def colours(self, leaf: Leaf) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return ((0.0,), (1.0,)) if leaf.unit else (self.augment.mean, self.augment.std)

    def picture(self, leaf: Leaf, x: Array) -> Array:
        return film_strip(x)

    def given(self, name: str, leaf: Leaf, value: Any) -> dict[str, Any]:
        if isinstance(value, str | bytes | os.PathLike):
            return {name: as_video(value if isinstance(value, bytes) else Path(value).expanduser())}
        frames = np.asarray(value)
        if np.issubdtype(frames.dtype, np.floating):
            low, high = (float(frames.min()), float(frames.max())) if frames.size else (0.0, 0.0)
            if not (low >= -1e-3 and high <= 1 + 1e-3):
                raise UserError(f"'{name}' holds floats from {low:.4g} to {high:.4g}; [0, 1], or uint8, expected.")
            frames = np.rint(255 * np.clip(frames, 0, 1)).astype(np.uint8)
        return {name: as_video(frames)}
