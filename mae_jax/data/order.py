"""Which record is due at a position: every part of the data shuffled anew in each of its epochs."""

import threading
from collections.abc import Sequence

import numpy as np

from mae_jax.data.sources.base import Part
from mae_jax.data.sources.mixture import interleave

_ORDER = 0  # which stream of random numbers: the last word of Philox's counter
_AUGMENT = 1  # and upwards: one stream for each view that draws for itself


class Shuffled:
    """Training: position -> record, without end.

    `repeats` positions in a row have the same record. Records of several parts are interleaved by weight, each part in
    epochs of its own.
    """

    def __init__(self, seed: int, parts: Sequence[Part], repeats: int = 1):
        self.parts, self.repeats = tuple(parts), repeats
        self._mixed = interleave([part.weight for part in parts]) if len(parts) > 1 else None
        self._epochs = [Epochs(seed, part.length, i) for i, part in enumerate(parts)]

    def __call__(self, position: int) -> int:
        part, k = 0, position // self.repeats
        if self._mixed is not None:
            part, k = self._mixed.at(k)
        epoch, place = divmod(k, self.parts[part].length)
        return self.parts[part].start + int(self._epochs[part](epoch)[place])


class Listed:
    """Evaluation: the records `picked` in their order; positions past the end repeat the last."""

    def __init__(self, picked: np.ndarray):
        self.picked = picked

    def __call__(self, position: int) -> int:
        return int(self.picked[min(position, len(self.picked) - 1)])


class Epochs:
    """The order of each epoch of one part, the last two kept. The cache stays behind when pickled."""

    def __init__(self, seed: int, length: int, part: int = 0):
        self.seed, self.length, self.part = seed, length, part
        self._kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __call__(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._kept:
                self._kept = {e: o for e, o in self._kept.items() if abs(e - epoch) == 1}
                self._kept[epoch] = permutation(self.seed, epoch, self.length, self.part)
            return self._kept[epoch]

    def __reduce__(self):
        return Epochs, (self.seed, self.length, self.part)


def permutation(seed: int, epoch: int, length: int, part: int = 0) -> np.ndarray:
    """A uniform permutation of range(length), from raw Philox words: numpy promises these for all versions."""
    words = _philox(seed, epoch, _ORDER, part).random_raw(length)
    return np.argsort(words, kind="stable").astype(np.int32 if length < 2**31 else np.int64)


def draws(seed: int, position: int, stream: int) -> np.random.Generator:
    """What view `stream` of the sample at `position` draws from."""
    return np.random.Generator(_philox(seed, position, _AUGMENT + stream))


def _philox(seed: int, number: int, stream: int, part: int = 0) -> np.random.Philox:
    return np.random.Philox(key=[seed, number], counter=[0, 0, part, stream])
