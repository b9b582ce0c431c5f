"""Which record is due at a position: every part of the data shuffled anew in each of its epochs, the parts in turn."""

import threading
from collections.abc import Sequence

import numpy as np

from mae_jax.core.errors import UserError

PERIOD = 1000  # samples after which the turns of the parts repeat, at most
_ORDER = 0  # which stream of random numbers: the last word of Philox's counter
_AUGMENT = 1  # and upwards: one stream for each view that draws for itself
_RECORD = 1 << 20  # and upwards: one for each view, of what the repeats of a record share


class Shuffled:
    """Training: position -> record, without end.

    `repeats` positions in a row have the same record. Records of several parts are interleaved by weight, each part in
    epochs of its own.
    """

    def __init__(self, seed: int, parts: Sequence[tuple[int, int, float]], repeats: int = 1):
        """Args: parts: (first record, number of records, weight) of each; see `Source.parts`."""
        self.parts, self.repeats = tuple(parts), repeats
        self._mixed = interleave([weight for _, _, weight in parts]) if len(parts) > 1 else None
        self._epochs = [Epochs(seed, length, i) for i, (_, length, _) in enumerate(parts)]

    def __call__(self, position: int) -> int:
        part, k = 0, position // self.repeats
        if self._mixed is not None:
            part, k = self._mixed.at(k)
        start, length, _ = self.parts[part]
        epoch, place = divmod(k, length)
        return start + int(self._epochs[part](epoch)[place])


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


class Draws:
    """What the leaves of the sample at `position` draw from: stream -> its generator, fresh at every call."""

    def __init__(self, seed: int, position: int, repeats: int = 1):
        self.seed, self.position, self.repeats = seed, position, repeats

    def __call__(self, stream: int) -> np.random.Generator:
        return draws(self.seed, self.position, stream)

    def record(self, stream: int) -> np.random.Generator:
        """The same for all `repeats` of a record: what its views share (the frames of a video)."""
        return draws(self.seed, self.position - self.position % self.repeats, _RECORD + stream)


def _philox(seed: int, number: int, stream: int, part: int = 0) -> np.random.Philox:
    return np.random.Philox(key=[seed, number], counter=[0, 0, part, stream])


class Interleaving:
    """An endless sequence of turns in which part s comes exactly counts[s] times in every sum(counts) in a row.

    The turns are evenly spread (smooth weighted round robin, as nginx deals out requests): every part has a credit,
    which grows by its count each turn; the part with the most comes, the first of equals, and pays the sum.

    Args:
        counts: how often each part comes in a period, at least 1 each.
    """

    def __init__(self, counts: Sequence[int]):
        self.counts = np.asarray(counts, np.int64)
        self.period = int(self.counts.sum())
        self._turns = np.zeros(self.period, np.int64)  # the part
        self._ranks = np.zeros(self.period, np.int64)  # how often it came before, in this period
        credit, came = np.zeros_like(self.counts), np.zeros_like(self.counts)
        for turn in range(self.period):
            credit += self.counts
            part = int(credit.argmax())
            credit[part] -= self.period
            self._turns[turn], self._ranks[turn] = part, came[part]
            came[part] += 1

    def at(self, position: int) -> tuple[int, int]:
        """(part, k): the sample at `position`, counted from the start of training, is the k-th of that part."""
        period, turn = divmod(position, self.period)
        part = int(self._turns[turn])
        return part, period * int(self.counts[part]) + int(self._ranks[turn])

    def all_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`at` of many positions at once, int64 [n] each."""
        periods, turn = np.divmod(np.asarray(positions, np.int64), self.period)
        part = self._turns[turn]
        return part, periods * self.counts[part] + self._ranks[turn]


def interleave(weights: Sequence[float]) -> Interleaving:
    """Parts in turn in proportion to `weights`, as the smallest whole numbers that say so.

    Weights that no period of up to PERIOD turns expresses exactly are rounded to the one with the least relative error.

    Raises: UserError for a weight that is not a positive number, or for a share below 1 / PERIOD.
    """
    shares = np.asarray(weights, np.float64)
    if shares.ndim != 1 or not len(shares) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise UserError(f"The weights of the parts are {tuple(weights)}: a positive number for each part expected.")
    shares = shares / shares.sum()
    if shares.min() * PERIOD < 1 - 1e-9:
        raise UserError(
            f"The weight {weights[int(shares.argmin())]:g} is a share of {shares.min():.2g} of all samples: less than "
            f"1 in {PERIOD} cannot be expressed. Leave the part out, or give it more weight."
        )
    scales = np.arange(len(shares), PERIOD + 1)
    quotas = np.rint(scales[:, None] * shares)
    sums = quotas.sum(1, keepdims=True)
    error = np.abs(quotas / np.maximum(sums, 1) / shares - 1).max(1)
    error[(quotas.min(1) < 1) | (sums[:, 0] > PERIOD)] = np.inf
    best = int(np.flatnonzero(error <= max(error.min(), 1e-9))[0])
    return Interleaving(quotas[best].astype(int).tolist())
