"""Made-up sounds, computed from their number (no download): chirps, and spoken-digit-like pairs of tones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec, label_phrase, split_name

CHIRPS = ("up", "down", "flat", "trill", "double")
PITCH = (400.0, 2200.0)  # of a chirp, Hz, log-uniform
SPAN = 2.2  # between the ends of a sweep, as a ratio of frequencies
VOICES = 1.35  # between the two of "double", the same
LENGTH = (0.35, 0.6)  # of a chirp, as a share of the clip
TRILL = (14.0, 20.0)  # periods of the wobble per second
LEVEL = (0.2, 0.6)  # amplitudes


@dataclass(frozen=True)
class Chirps(Spec):
    """Clips of noise with a chirp in it: up, down, flat, trill (a wobble) or double (two voices at once).

    Time, pitch, length and level are random. A distractor is a second chirp of another kind, at a time and pitch of its
    own.

    Args:
        rate: Hz.
        seconds: of a clip.
        length: clips per split.
        noise: deviation of white noise.
        distractor: probability of a distractor.
        multilabel: label every kind of chirp that can be heard, 0 or 1 each; else the first one's number (a distractor
            is then half as loud at most).
    """

    rate: int = 8000
    seconds: float = 0.66
    length: int = 2048
    noise: float = 0.02
    distractor: float = 0.0
    multilabel: bool = False

    def open(self, split: str) -> Source:
        _check(self.length, self.noise)
        if self.rate < 5000 or self.seconds < 0.3 or not 0 <= self.distractor <= 1:
            raise UserError(
                f"the chirps source with data.rate={self.rate}, data.seconds={self.seconds}, data.distractor="
                f"{self.distractor}: at least 5000 Hz, at least 0.3 s and a probability expected."
            )
        return MadeChirps(self, split_name(split))


@dataclass(frozen=True)
class Tones(Spec):
    """Ten "digits": each a pair of tones as a telephone sends it, with a fall in pitch, overtones and noise.

    Time, length, level and a common factor of the pitch are random.

    Args:
        rate: Hz.
        seconds: of a clip.
        length: clips per split.
        noise: deviation of white noise.
    """

    rate: int = 8000
    seconds: float = 0.66
    length: int = 2048
    noise: float = 0.05

    def open(self, split: str) -> Source:
        _check(self.length, self.noise)
        if self.rate < 8000 or self.seconds < 0.2:
            raise UserError(
                f"the tones source with data.rate={self.rate} and data.seconds={self.seconds}: at least 8000 Hz and "
                f"0.2 s expected."
            )
        return MadeTones(self, split_name(split))


def _check(length: int, noise: float) -> None:
    if length < 1 or noise < 0:
        raise UserError(
            f"data.length={length} and data.noise={noise}: at least 1 clip and noise of at least 0 expected."
        )


class Made(Source):
    """Clips by number: the record is {"waveform" [samples], "rate", "label"}."""

    stream = 0  # of random numbers, one per kind of source

    def __init__(self, spec: Any, split: str):
        self.spec, self.split = spec, split

    def rng(self, i: int, part: int = 0) -> np.random.Generator:
        """The generator of clip i; `part` 1: of its labels."""
        key = [2 * self.stream + (self.split == "test"), i]
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, part]))

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng, samples = self.rng(i), round(self.spec.rate * self.spec.seconds)
        wave = self.spec.noise * rng.standard_normal(samples) + self.sound(i, rng, samples)
        label = self.labels[i]
        label = int(label) if self.labels.ndim == 1 else label
        return {"waveform": np.clip(wave, -1, 1).astype(np.float32), "rate": self.spec.rate, "label": label}

    def sound(self, i: int, rng: np.random.Generator, samples: int) -> np.ndarray:
        """What is heard above the noise, [samples]."""
        raise NotImplementedError

    def name(self, i: int) -> str:
        return f"{type(self.spec).__name__.lower()} {self.split} #{i}"

    def describe(self) -> str:
        title = type(self.spec).__name__.lower()
        what = f"{self.spec.seconds} s at {self.spec.rate} Hz ({self.split})"
        return f"{title}: {len(self)} made-up clips of {what}, {label_phrase(self)}"


class MadeChirps(Made):
    """The clips of `Chirps`."""

    stream, classes = 0, CHIRPS

    def __init__(self, spec: Chirps, split: str):
        super().__init__(spec, split)
        self.kinds = np.array([self._kinds(i) for i in range(spec.length)], np.int32)  # of the chirp and the distractor
        self.multilabel = spec.multilabel
        self.labels = self.kinds[:, 0]
        if spec.multilabel:
            self.labels = (self.kinds[:, :, None] == np.arange(len(CHIRPS))).any(axis=1).astype(np.int32)

    def _kinds(self, i: int) -> tuple[int, int]:
        """(the chirp's kind, the distractor's; -1: none)."""
        rng = self.rng(i, 1)
        first, other = int(rng.integers(len(CHIRPS))), int(rng.integers(1, len(CHIRPS)))
        return first, (first + other) % len(CHIRPS) if rng.random() < self.spec.distractor else -1

    def sound(self, i: int, rng: np.random.Generator, samples: int) -> np.ndarray:
        first, other = self.kinds[i]
        level = rng.uniform(*LEVEL)
        sound = level * chirp(rng, CHIRPS[first], samples, self.spec.rate)
        if other < 0:
            return sound
        second = rng.uniform(*LEVEL) if self.spec.multilabel else rng.uniform(0.25, 0.5) * level
        return sound + second * chirp(rng, CHIRPS[other], samples, self.spec.rate)


def chirp(rng: np.random.Generator, kind: str, samples: int, rate: int) -> np.ndarray:
    """[samples]: silence but for one chirp of amplitude 1."""
    n = round(rng.uniform(*LENGTH) * samples)
    start = int(rng.integers(samples - n + 1))
    pitch = float(np.exp(rng.uniform(*np.log(PITCH))))
    t = np.arange(n) / n  # of the chirp
    bend = np.sqrt(SPAN) ** (2 * t - 1)
    envelope = np.sin(np.pi * t) ** 0.5
    if kind == "up":
        frequency = pitch * bend
    elif kind == "down":
        frequency = pitch / bend
    elif kind == "flat":
        frequency = np.full(n, pitch)
    elif kind == "trill":
        wobble = np.sin(2 * np.pi * (rng.random() + rng.uniform(*TRILL) * np.arange(n) / rate))
        frequency = pitch * np.sqrt(SPAN) ** (0.5 * wobble)
    else:
        frequency = np.full(n, pitch / np.sqrt(VOICES))
    phase = 2 * np.pi * np.cumsum(frequency) / rate
    out = np.zeros(samples)
    voices = (np.sin(phase) + np.sin(VOICES * phase)) / np.sqrt(2) if kind == "double" else np.sin(phase)
    out[start : start + n] = envelope * voices
    return out


ROWS, COLUMNS = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)  # Hz, of a telephone's keys
DIGITS = {str(d): ((d - 1) // 3, (d - 1) % 3) if d else (3, 1) for d in range(10)}


class MadeTones(Made):
    """The clips of `Tones`."""

    stream, classes = 1, tuple(DIGITS)

    def __init__(self, spec: Tones, split: str):
        super().__init__(spec, split)
        self.labels = np.array([self.rng(i, 1).integers(10) for i in range(spec.length)], np.int32)

    def sound(self, i: int, rng: np.random.Generator, samples: int) -> np.ndarray:
        n = round(rng.uniform(0.4, 0.8) * samples)
        start, t = int(rng.integers(samples - n + 1)), np.arange(n) / n
        row, column = DIGITS[str(self.labels[i])]
        voice = rng.uniform(0.97, 1.03) * (1.02 - 0.04 * t)  # a fall in pitch
        phases = [2 * np.pi * np.cumsum(f * voice) / self.spec.rate for f in (ROWS[row], COLUMNS[column])]
        tones = sum(np.sin(p) + 0.3 * np.sin(2 * p) for p in phases)
        out = np.zeros(samples)
        out[start : start + n] = rng.uniform(0.1, 0.3) * np.sin(np.pi * t) ** 0.3 * tones
        return out
