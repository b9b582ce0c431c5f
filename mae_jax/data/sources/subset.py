"""Split expressions: slices of a split and sums of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.order import permutation
from mae_jax.data.sources.base import Part, Source, Spec, label_of, label_phrase, split_name
from mae_jax.data.sources.mixture import united

SLICES = 1 << 63  # the seed of the order in which slices take records; training's seeds are below
FEW = 1 << 40  # the part whose permutations draw a few records per class; a mixture has fewer parts
GRAMMAR = (
    "A split is 'train' or 'test', a slice 'train[FROM:TO]' with bounds in records or percent, either left out, "
    "negative ones from the end, or a sum: 'train[:90%]', 'train[90%:]', 'train[1000:2000]', 'train[-10%:]', "
    "'train+test', 'train[:50%]+test[:100]'."
)
_BOUND = r"(-?\d[\d_]*(?:\.\d+)?%?)?"
_TERM = re.compile(rf"\s*([\w-]+)\s*(?:(\[)\s*{_BOUND}\s*:\s*{_BOUND}\s*\])?\s*")


@dataclass(frozen=True)
class Term:
    """One split or slice of one. A bound is (number, whether in percent); None where it is left out."""

    split: str
    start: tuple[float, bool] | None = None
    stop: tuple[float, bool] | None = None

    def bounds(self, length: int) -> tuple[int, int]:
        """[from, to) of `length` records. Percent are rounded to the nearest, halves to even, as TFDS does."""
        start = 0 if self.start is None else _absolute(self.start, length)
        stop = length if self.stop is None else _absolute(self.stop, length)
        return start, stop


def parse(expression: str) -> tuple[Term, ...]:
    """The terms of a split expression. Raises UserError that shows the grammar."""
    terms = []
    for text in expression.split("+"):
        match = _TERM.fullmatch(text)
        sliced = match is not None and bool(match[2])
        if match is None or (sliced and match[3] is None and match[4] is None):
            raise UserError(f"The split '{expression}' cannot be read at '{text.strip()}'. {GRAMMAR}")
        bounds = [_bound(b, expression) for b in match.groups()[2:]]
        terms.append(Term(match[1], *bounds))
    return tuple(terms)


def open_split(spec: Spec, expression: str) -> Source:
    """Open a split, a slice of one or a sum of these.

    A slice takes records in a fixed random order of the split's length, so that no class is lost from sorted data,
    unless they are stored in random order (`Source.shuffled`): then in theirs. The records of a slice come sorted.

    Raises: UserError for an expression that cannot be read, takes nothing, or takes a record twice.
    """
    terms = parse(expression)
    if len(terms) == 1 and terms[0] == Term(terms[0].split):
        return spec.open(terms[0].split)
    if not spec.named_splits:  # "val" and "test" are one
        terms = tuple(replace(term, split=split_name(term.split)) for term in terms)
    sources = {split: spec.open(split) for split in dict.fromkeys(term.split for term in terms)}
    taken = {split: np.zeros(len(source), bool) for split, source in sources.items()}
    for term in terms:
        source, mask = sources[term.split], taken[term.split]
        n = len(source)
        start, stop = term.bounds(n)
        if max(start, stop) > n or min(start, stop) < 0:
            raise UserError(f"The split '{expression}' reaches beyond the {n} records of '{term.split}'. {GRAMMAR}")
        if start >= stop:
            raise UserError(f"The split '{expression}' takes none of the {n} records of '{term.split}' (from {start} "
                            f"to {stop}). {GRAMMAR}")  # fmt: skip
        chosen = np.arange(start, stop) if source.shuffled or stop - start == n else (
            permutation(SLICES, n, n)[start:stop]
        )  # fmt: skip
        if mask[chosen].any():
            raise UserError(
                f"The split '{expression}' takes {int(mask[chosen].sum())} records of '{term.split}' twice."
            )
        mask[chosen] = True
    picks = [np.flatnonzero(mask) for mask in taken.values()]
    return Subset(list(sources.values()), picks, list(sources), expression)


class Subset(Source):
    """Records `picks[s]` (sorted) of each source s, part by part: of each part those of the first source go first.

    Args:
        sources: splits of one data set, so that all have the same parts.
        picks: int [n_s] of each.
        splits: their names; expression: what was asked for, for messages.
    """

    def __init__(self, sources: Sequence[Source], picks: Sequence[np.ndarray], splits: Sequence[str], expression: str):
        self.sources, self.splits, self.expression = tuple(sources), tuple(splits), expression
        labels, self.classes = united(self.sources)
        self.segments, self.multilabel = sources[0].segments, sources[0].multilabel
        self.part_counts = sources[0].part_counts
        firsts = np.append(0, np.cumsum([len(s) for s in sources]))  # of each source, among the records of all
        parts, pieces, start = [], [], 0
        for p, part in enumerate(sources[0].parts):
            inside = []
            for source, pick, first in zip(sources, picks, firsts, strict=False):
                begin, length, _ = source.parts[p]
                a, b = np.searchsorted(pick, [begin, begin + length])
                inside.append(first + pick[a:b])
            length = sum(map(len, inside))
            if not length:
                raise UserError(f"The split '{expression}' takes no record of part {p} of the mixture. Take more, or "
                                "leave the part out.")  # fmt: skip
            parts.append(Part(start, length, part.weight))
            pieces += inside
            start += length
        self._parts, self.firsts = tuple(parts), firsts
        self.numbers = np.concatenate(pieces)
        self.labels = labels[self.numbers]

    @property
    def shuffled(self) -> bool:  # type: ignore[override]
        """As the sources: what is sorted here is the order in which they are stored."""
        return len(self.sources) == 1 and self.sources[0].shuffled

    @property
    def parts(self) -> tuple[Part, ...]:
        return self._parts

    def __getitem__(self, i: int) -> dict[str, Any]:
        source, j = self._at(i)
        return self.sources[source][j] | {"label": label_of(self.labels, i)}

    def _at(self, i: int) -> tuple[int, int]:
        """(source, record in it)."""
        number = int(self.numbers[i])
        source = int(np.searchsorted(self.firsts, number, side="right")) - 1
        return source, number - int(self.firsts[source])

    def name(self, i: int) -> str:
        """With the split, where there are several: they may hold files of the same name."""
        source, j = self._at(i)
        name = self.sources[source].name(j)
        return f"{self.splits[source]}:{name}" if len(self.sources) > 1 else name

    def where(self, i: int) -> str:
        source, j = self._at(i)
        return self.sources[source].where(j)

    def describe(self) -> str:
        of = " and ".join(s.describe() for s in self.sources)
        return f"{self.expression}: {len(self)} records, {label_phrase(self)}, of {of}"


def few_per_class(source: Source, count: int, seed: int = 0) -> Source:
    """`count` labelled records of each class, drawn by `seed`; the draw of fewer is part of the draw of more.

    Raises: UserError for a source without a label per record, or a class with too few records.
    """
    if not source.classes or source.labels.ndim != 1:
        raise UserError(f"transfer.labels_per_class={count} needs a label per record, which the data have not: "
                        f"{source.describe()}.")  # fmt: skip
    if count < 1 or seed < 0:
        raise UserError(f"transfer.labels_per_class={count} with labels_seed={seed}: at least 1 and 0 expected.")
    picks = []
    for c, name in enumerate(source.classes):
        found = np.flatnonzero(source.labels == c)
        if len(found) < count:
            raise UserError(f"transfer.labels_per_class={count}, but the class '{name}' has only {len(found)} "
                            f"records in the training split. Take at most as many, or leave it out: all.")  # fmt: skip
        picks.append(found[permutation(seed, c, len(found), FEW)[:count]])
    return Subset([source], [np.sort(np.concatenate(picks))], ["train"], f"{count} per class, draw {seed}")


def _bound(text: str | None, expression: str) -> tuple[float, bool] | None:
    if text is None:
        return None
    percent = text.endswith("%")
    number = float(text.rstrip("%"))
    if (percent and abs(number) > 100) or (not percent and number != int(number)):
        raise UserError(f"The split '{expression}' has the bound {text}: whole records, or percent in -100..100, "
                        f"expected. {GRAMMAR}")  # fmt: skip
    return number, percent


def _absolute(bound: tuple[float, bool], length: int) -> int:
    number, percent = bound
    place = round(number * length / 100) if percent else int(number)
    # "-1%" of ten records rounds to nothing before the end, where TFDS takes it for the start
    return length + place if place < 0 or (percent and number < 0) else place
