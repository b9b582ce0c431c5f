"""Which record comes when: permutations, and parts of a data set in turn. Arithmetic alone, no state."""

from collections.abc import Sequence

import numpy as np

from mae_jax.core.errors import UserError

PERIOD = 1000  # samples after which the turns of the parts repeat, at most


def permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """A uniform permutation of range(length), from raw Philox words: numpy promises these for all versions."""
    words = np.random.Philox(key=[seed, epoch]).random_raw(length)
    return np.argsort(words, kind="stable").astype(np.int32 if length < 2**31 else np.int64)


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
        part, k = self.all_at(np.array([position]))
        return int(part[0]), int(k[0])

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
