"""Any tree or list of video files and of folders of frames."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec, held_out, label_phrase, split_name
from mae_jax.data.sources.folder import Files, files_below, find_directory, split_tree
from mae_jax.data.sources.manifest import read_manifest
from mae_jax.data.sources.names import Names
from mae_jax.data.sources.video_lists import is_list, read_list
from mae_jax.data.video import FRAME_ENDINGS, FrameFolder, as_video
from mae_jax.data.video_file import pyav

EXTENSIONS = ("mp4", "avi", "mkv", "webm", "mov", "m4v", "mpg", "mpeg", "ts", "wmv", "flv", "3gp", "ogv")
ENDINGS = tuple(b"." + e.encode() for e in EXTENSIONS)
WHAT = "video", f"files ending in {', '.join(EXTENSIONS)} (capitals too), and directories of images"


@dataclass(frozen=True)
class Videos(Spec):
    """Video files, and directories of images that are a video's frames, below a directory. docs/video.md

    Splits and classes are those of the folder source: PATH/train and PATH/val (test, validation) where they are there,
    else a share of the videos; a class per first-level directory. An unreadable video is replaced and counted.

    Args:
        path: the directory.
        holdout: the share of videos kept for testing where nothing says which.
        manifest: a table as of the folder source, or a list without a header: a line "path label" per video, or "path
            frames label" per folder of frames (VideoMAE's). Paths are relative to `path`; a list's may be absolute.
        test_manifest: the list of the test split; the other is then all training.
    """

    path: str
    holdout: float = 0.1
    manifest: str | None = None
    test_manifest: str | None = None

    def open(self, split: str) -> Source:
        split = split_name(split)
        root = find_directory(self.path, "The video source reads a directory; a list of videos is data.manifest.")
        if self.test_manifest and not self.manifest:
            raise UserError(
                "data.test_manifest is the list of the test split: data.manifest, that of training, as well."
            )
        if not self.manifest:
            return Clips(*split_tree(root, split, self.holdout, _videos, WHAT), split)
        if not is_list(self.manifest):
            if self.test_manifest:
                raise UserError(
                    f"data.manifest={self.manifest} is a table, which has the test split in its column 'split': leave "
                    f"data.test_manifest out, or give lists of 'path label' lines."
                )
            names, labels, classes = read_manifest(self.manifest, root, split, self.holdout, Path.exists)
            return Clips(root, names, labels, classes, split)
        names, labels, frames, classes = read_list(self.manifest, root, Path.exists)
        if self.test_manifest and split == "test":
            names, labels, frames, others = read_list(self.test_manifest, root, Path.exists)
            if len(others) > len(classes):
                raise UserError(
                    f"data.test_manifest={self.test_manifest} holds the label {len(others) - 1}, and the training list "
                    f"{self.manifest} none above {len(classes) - 1}."
                )
        elif not self.test_manifest:
            chosen = held_out(names, self.holdout) == (split == "test")
            if not chosen.any():
                raise UserError(f"The {split} split of {self.manifest} is empty: data.holdout={self.holdout} of "
                                f"{len(names)} videos. Give data.test_manifest.")  # fmt: skip
            names, labels, frames = names.take(chosen), labels[chosen], frames[chosen]
        return Clips(root, names, labels, classes, split, frames)


class Clips(Files):
    """Videos `names`; `frames` int32 [n]: so many of a folder's frames, 0 for all."""

    def __init__(
        self, root: Path, names: Names, labels: np.ndarray, classes: tuple[str, ...], split: str,
        frames: np.ndarray | None = None,
    ):  # fmt: skip
        super().__init__(root, names, labels, classes, split)
        self.frames = frames
        if any(name.lower().endswith(ENDINGS) for name in names):
            pyav()  # said now rather than by every record

    def __getitem__(self, i: int) -> dict[str, Any]:
        path = self.where(i)
        limit = int(self.frames[i]) if self.frames is not None else 0
        video = FrameFolder(path, limit) if limit and os.path.isdir(path) else as_video(path)
        return {"video": video, "label": int(self.labels[i])}

    def describe(self) -> str:
        return f"video {self.root}: {len(self)} videos ({self.split}), {label_phrase(self)}"


def _videos(root: Path) -> Iterator[bytes]:
    return files_below(root, ENDINGS, tuple(e.encode() for e in FRAME_ENDINGS))
