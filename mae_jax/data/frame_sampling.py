"""Which frames of a video make a clip. `length` is the video's number of frames; results are frame numbers, int64 [n].

Dense clips are VideoMAE's (Tong et al. 2022) on Kinetics, sparse ones its on Something-Something (after TSN, Wang et
al. 2016: one frame of each of n equal segments).
"""

import numpy as np

SAMPLINGS = ("dense", "sparse")


def dense(length: int, frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Every `stride`-th frame from a start that is uniform over those from which frames * stride fit.

    In a video that is too short the start is 0; a step that would reach the last frame, or pass it, is not taken, so
    that the one before it is repeated (the authors' rule: at stride 1 it repeats one where the last would have fitted).
    """
    starts = length - frames * stride + 1
    start = int(rng.integers(starts)) if starts > 0 else 0
    steps = max(0, length - 2 - start) // stride
    return start + stride * np.minimum(np.arange(frames), steps)


def dense_view(length: int, frames: int, stride: int, view: int = 0, views: int = 1) -> np.ndarray:
    """Clip `view` of `views` evenly spaced ones of the video at every `stride`-th frame; one: the middle.

    A video that is too short repeats its last strided frame.
    """
    strided = -(-length // stride)
    room = max(0, strided - frames)
    start = room // 2 if views == 1 else view * room // (views - 1)
    return stride * np.minimum(start + np.arange(frames), strided - 1)


def sparse(length: int, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A frame drawn from each of `frames` segments of length // frames; all are frame 0 where there are too few."""
    segment = length // frames
    if not segment:
        return np.zeros(frames, np.int64)
    return segment * np.arange(frames) + rng.integers(segment, size=frames)


def sparse_view(length: int, frames: int, view: int = 0, views: int = 1) -> np.ndarray:
    """The frame at share view / views of each of `frames` segments: of two, starts and middles; of one, middles."""
    share = 0.5 if views == 1 else view / views
    tick = length / frames
    return np.array([int(tick * share + tick * i) for i in range(frames)], np.int64)
