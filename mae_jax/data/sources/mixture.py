"""Several sources as one, interleaved by weight."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Part, Source, Spec, label_phrase

PERIOD = 1000  # the longest cycle of an interleaving: weights are kept to a thousandth
KEYS = ("source", "weight", "train_split", "test_split")


@dataclass(frozen=True)
class Mixture(Spec):
    """Several sources, from each a fixed share of every stretch of samples.

    Each part is a dict of a source's name, its fields, and `weight` (default 1):
    `data.parts=(dict(source="folder", path="/a", weight=3), dict(source="tar", path="/b"))` takes three of four samples
    from the first. Every part is shuffled in epochs of its own; a small part with a large weight is seen more often.
    `train_split` and `test_split` in a part say which of its records train and test (default "train" and "test").
    Classes of equal names are one class; if any part is unlabelled, so is the mixture.

    Args:
        parts: the parts.
    """

    parts: Any

    def open(self, split: str) -> Source:
        from mae_jax.data.sources import make_source  # which knows this module

        if not isinstance(self.parts, Sequence) or isinstance(self.parts, str) or not self.parts:
            raise UserError(
                f"data.parts={self.parts!r}: a tuple of dicts expected, as "
                f"(dict(source='folder', path='/a', weight=3), dict(source='npz', path='/b.npz'))."
            )
        sources, weights = [], []
        for i, part in enumerate(self.parts):
            if not isinstance(part, Mapping) or "source" not in part:
                raise UserError(f"data.parts[{i}]={part!r}: a dict with a 'source' and that source's fields expected.")
            fields = {key: value for key, value in part.items() if key not in KEYS}
            wanted = part.get("test_split" if split == "test" else "train_split", split)
            sources.append(make_source(part["source"], wanted, fields))
            weights.append(part.get("weight", 1.0))
        return Mixed(sources, weights)


class Mixed(Source):
    """The records of `sources`, one source after the other; `parts` says where each lies and with which weight."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        interleave(weights)  # says what is wrong with the weights
        self.sources = list(sources)
        self._starts = np.cumsum([0, *map(len, sources)])
        self._parts = tuple(
            Part(int(start), len(source), float(weight))
            for start, source, weight in zip(self._starts, sources, weights)
        )
        shapes = {source.labels.shape[1:] for source in sources}
        if len(shapes) > 1:
            raise UserError("data.parts mixes sources whose records have other numbers of labels; they cannot be one.")
        labelled = all(source.classes for source in sources)
        self.classes = tuple(sorted({c for source in sources for c in source.classes}, key=_by_number))
        if labelled:
            number = {name: i for i, name in enumerate(self.classes)}
            self.labels = np.concatenate([_renamed(source, number) for source in sources])
        else:
            self.classes = ()
            self.labels = np.full((int(self._starts[-1]), *shapes.pop()), -1, np.int32)

    @property
    def parts(self) -> tuple[Part, ...]:
        return self._parts

    def _find(self, i: int) -> tuple[Source, int]:
        i = range(len(self))[i]
        part = int(np.searchsorted(self._starts, i, "right")) - 1
        return self.sources[part], i - int(self._starts[part])

    def __getitem__(self, i: int) -> dict[str, Any]:
        source, k = self._find(i)
        return source[k] | {"label": int(self.labels[i]) if self.labels.ndim == 1 else self.labels[i]}

    def name(self, i: int) -> str:
        source, k = self._find(i)
        return f"{self.sources.index(source)}:{source.name(k)}"

    def where(self, i: int) -> str:
        source, k = self._find(i)
        return source.where(k)

    def describe(self) -> str:
        whole = sum(part.weight for part in self.parts)
        lines = [f"mixture of {len(self.parts)} sources: {len(self)} records, {label_phrase(self)}"]
        for source, part in zip(self.sources, self.parts):
            lines.append(f"  {part.weight / whole:6.1%}  {source.describe()}")
        return "\n".join(lines)


def _renamed(source: Source, number: Mapping[str, int]) -> np.ndarray:
    """The labels of `source` by the numbers that its classes have in the mixture; -1 stays."""
    table = np.array([number[name] for name in source.classes] + [-1], np.int32)
    return table[source.labels]


def _by_number(name: str) -> tuple[int, int, str]:
    """ "2" before "10" before "cat"."""
    return (0, int(name), name) if name.isdigit() else (1, 0, name)


@dataclass(frozen=True)
class Interleaving:
    """Which part each sample comes from: a cycle, repeated.

    Attributes:
        cycle: int [Q], the part of each place in the cycle.
        before: int [Q], how many of the same part come before it in the cycle.
        counts: int [parts], how many of each part a cycle holds.
    """

    cycle: np.ndarray
    before: np.ndarray
    counts: np.ndarray

    def at(self, g: int) -> tuple[int, int]:
        """(part, k): sample g of the mixture is the k-th of its part."""
        turn, place = divmod(g, len(self.cycle))
        part = int(self.cycle[place])
        return part, turn * int(self.counts[part]) + int(self.before[place])


@functools.lru_cache(64)
def _interleave(weights: tuple[float, ...]) -> Interleaving:
    counts = _counts(weights)
    credit, cycle = np.zeros(len(counts)), []
    for _ in range(int(counts.sum())):  # smooth weighted round robin: the part that lags most comes next
        credit += counts
        part = int(credit.argmax())
        credit[part] -= counts.sum()
        cycle.append(part)
    order = np.array(cycle, np.int32)
    before = np.zeros(len(order), np.int64)
    for part in range(len(counts)):
        before[order == part] = np.arange(counts[part])
    return Interleaving(order, before, counts)


def interleave(weights: Sequence[float]) -> Interleaving:
    """Spread parts evenly by weight. Exactly `counts[s]` of every len(cycle) samples in a row are of part s.

    Raises: UserError for weights that are not positive, or so unequal that a part would not come once in PERIOD.
    """
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise UserError(f"a weight in data.parts is {weight!r}: a number above 0 expected.")
    return _interleave(tuple(float(weight) for weight in weights))


def _counts(weights: Sequence[float]) -> np.ndarray:
    """Whole numbers in the proportion of the weights: exact where a cycle of PERIOD can be, else to 1 / PERIOD."""
    shares = [Fraction(w).limit_denominator(10**6) for w in weights]
    if min(shares) > 0:
        common = np.lcm.reduce([share.denominator for share in shares])
        exact = [int(share * int(common)) for share in shares]
        divisor = np.gcd.reduce(exact)
        if sum(exact) // divisor <= PERIOD:
            return np.array(exact) // divisor
    whole = sum(weights)
    ideal = np.array([weight / whole * PERIOD for weight in weights])
    if ideal.min() < 1:
        raise UserError(
            f"the weights {tuple(weights)} in data.parts are too unequal: each part must be at least 1/{PERIOD} of all."
        )
    counts = np.floor(ideal).astype(int)
    counts[np.argsort(counts - ideal, kind="stable")[: PERIOD - counts.sum()]] += 1  # largest remainders
    return counts
