"""Log-mel filter banks as Kaldi computes them (htk_compat, no dither, no energy, snipped edges), in NumPy.

The tables of a `Front` serve the device as well (augment/fbank.py). Held to torchaudio.compliance.kaldi.fbank in
tests/data/test_fbank.py.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

EPS = float(np.finfo(np.float32).eps)  # the least energy that a logarithm is taken of
PREEMPHASIS = 0.97


@dataclass(frozen=True)
class Front:
    """How a waveform becomes frames of log-mel energies.

    Attributes:
        rate: of the waveform, Hz.
        mels: number of bins, evenly spaced on the scale 1127 ln(1 + f / 700).
        low: where the first filter starts, Hz; the last ends at half the rate.
        window, hop: length of a frame and distance of frames, ms.
    """

    rate: int
    mels: int = 128
    low: float = 20.0
    window: float = 25.0
    hop: float = 10.0

    @property
    def length(self) -> int:
        """Samples in a frame."""
        return int(self.rate * self.window * 0.001)

    @property
    def step(self) -> int:
        """Samples from frame to frame."""
        return int(self.rate * self.hop * 0.001)

    @property
    def fft(self) -> int:
        """Samples of a frame filled up with zeros: a power of two."""
        return 1 << (self.length - 1).bit_length()

    def frames(self, samples: int) -> int:
        """How many whole frames there are."""
        return 0 if samples < self.length else 1 + (samples - self.length) // self.step

    @functools.cached_property
    def hann(self) -> np.ndarray:
        """[length] float32, symmetric."""
        return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.length) / (self.length - 1))).astype(np.float32)

    @functools.cached_property
    def filters(self) -> np.ndarray:
        """[fft / 2 + 1, mels] float32: triangles on the mel scale; the highest frequency is in none.

        In float32 from the start, as Kaldi has them: narrow triangles differ by 1e-4 of themselves otherwise.
        """
        low, high = (1127.0 * math.log(1.0 + f / 700.0) for f in (self.low, self.rate / 2))
        edge = lambda i: (
            np.float32(low) + (np.arange(self.mels) + i).astype(np.float32) * np.float32((high - low) / (self.mels + 1))
        )
        left, centre, right = edge(0), edge(1), edge(2)
        at = np.float32(self.rate / self.fft) * np.arange(self.fft // 2, dtype=np.float32)
        at = np.float32(1127.0) * np.log(np.float32(1.0) + at / np.float32(700.0))[:, None]
        triangles = np.minimum((at - left) / (centre - left), (right - at) / (right - centre))
        return np.pad(np.maximum(0, triangles), ((0, 1), (0, 0)))


def fbank(waveform: np.ndarray, front: Front) -> np.ndarray:
    """[samples] -> [frames, mels] float32: natural logarithms of energies; samples that fill no frame are left out.

    Each frame loses its mean, then 0.97 of the sample before (of the first: of itself), then comes under a Hann window.
    """
    count, length = front.frames(len(waveform)), front.length
    if not count:
        return np.zeros((0, front.mels), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(waveform, np.float32), length)[:: front.step][:count]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - np.float32(PREEMPHASIS) * before) * front.hann
    power = np.square(np.abs(np.fft.rfft(frames, front.fft))).astype(np.float32)
    return np.log(np.maximum(power @ front.filters, EPS))


def fitted(features: np.ndarray, frames: int, fill: float) -> np.ndarray:
    """[m, mels] -> [frames, mels]: cut, or filled up behind."""
    short = max(0, frames - len(features))
    return np.pad(features[:frames], ((0, short), (0, 0)), constant_values=np.float32(fill))


def samples_of(seconds: float, rate: int) -> int:
    """Samples of a clip."""
    return math.floor(seconds * rate + 0.5)
