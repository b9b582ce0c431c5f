"""Which records of a source: "train[:90%]", "train+test", "test[1000:]"."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, label_phrase

GRAMMAR = (
    "a split is train, test or val, with a slice if wanted, and several joined by +: train[:90%], train[-1000:], "
    "train[10%:20%], train+test[:500]"
)
_PIECE = re.compile(r"\s*([a-z_]+)\s*(?:\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\])?\s*")


def open_split(open_one: Callable[[str], Source], expression: str) -> Source:
    """The records that `expression` names, as one source.

    A slice counts in a fixed random order, so that of data sorted by class no class is cut off; where the stored order
    is random already (`Source.shuffled`), in that one. Shares are rounded to the nearest record, so train[:90%] and
    train[90%:] have no record in common and miss none.

    Args:
        open_one: the source's own `open`, which knows "train" and "test".

    Raises: UserError for what is no split, and for a slice without records.
    """
    pieces = [_PIECE.fullmatch(text) for text in expression.split("+")]
    found = [piece for piece in pieces if piece is not None]
    if len(found) < len(pieces):
        raise UserError(f"'{expression}' is no split: {GRAMMAR}.")
    if len(found) == 1 and found[0][2] is None and found[0][3] is None:
        return open_one(found[0][1])
    parts = []
    for piece in found:
        source = open_one(piece[1])
        n = len(source)
        records = np.arange(n)
        start, stop = (_place(text, n, default) for text, default in ((piece[2], 0), (piece[3], n)))
        if (start, stop) != (0, n):
            order = records if source.shuffled else _order(n)
            records = np.sort(order[start:stop])
        if not len(records):
            raise UserError(f"the split '{piece[0].strip()}' holds no record: there are {n} in '{piece[1]}'.")
        parts.append((source, records))
    return Subset(parts, expression)


def _place(text: str | None, n: int, default: int) -> int:
    if text is None:
        return default
    place = int(text.rstrip("%"))
    if text.endswith("%"):
        if not -100 <= place <= 100:
            raise UserError(f"'{text}' in a split: a share between -100% and 100% expected.")
        place = round(place * n / 100)
    return min(max(place + n if text.startswith("-") else place, 0), n)


def _order(n: int) -> np.ndarray:
    """A random order that depends on the number of records alone."""
    return np.argsort(np.random.Philox(key=n).random_raw(n), kind="stable")


class Subset(Source):
    """Some records of one or several splits of a source.

    Args:
        parts: (source, numbers of its records) in order.
        expression: what they were asked for as.
    """

    def __init__(self, parts: list[tuple[Source, np.ndarray]], expression: str):
        if len({source.classes for source, _ in parts}) > 1:
            raise UserError(f"the splits of '{expression}' have different classes, so they cannot be one.")
        self._parts, self.expression = parts, expression
        self._starts = np.cumsum([0, *(len(records) for _, records in parts)])
        self.classes = parts[0][0].classes
        self.labels = np.concatenate([source.labels[records] for source, records in parts])
        self.shuffled = all(source.shuffled for source, _ in parts)

    def _find(self, i: int) -> tuple[Source, int]:
        i = range(len(self))[i]
        part = int(np.searchsorted(self._starts, i, "right")) - 1
        source, records = self._parts[part]
        return source, int(records[i - self._starts[part]])

    def __getitem__(self, i: int) -> dict[str, Any]:
        source, k = self._find(i)
        return source[k]

    def name(self, i: int) -> str:
        source, k = self._find(i)
        return source.name(k)

    def where(self, i: int) -> str:
        source, k = self._find(i)
        return source.where(k)

    def describe(self) -> str:
        of = "\n  of ".join(source.describe() for source, _ in self._parts)
        return f"{self.expression}: {len(self)} records, {label_phrase(self)}\n  of {of}"
