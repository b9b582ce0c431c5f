"""Several sources as one, each with a weight in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage
from mae_jax.data.order import interleave
from mae_jax.data.sources.base import Part, Source, Spec, label_of, label_phrase

TRIED = 20  # records of a part that may be unreadable before its leaves are given up


@dataclass(frozen=True)
class Mixture(Spec):
    """Records of several sources one after the other; training draws from each in proportion to its weight.

    Classes are united by name, in the order of the parts. When a part is unlabelled, all records are. A slice as
    "train[:50%]" is taken of the mixture as a whole; `split` of a part slices that part.

    Args:
        parts: for each part the keys of its source, as dict(source="folder", path="/a"), and weight (default 1) and
            split (which split or slice of it stands for "train" and "test", as {"train": "train+test"}).
    """

    parts: tuple[Any, ...]

    def open(self, split: str) -> Source:
        from mae_jax.data.sources import make_spec  # the registry, which names this file
        from mae_jax.data.sources.subset import open_split

        if not isinstance(self.parts, list | tuple) or not self.parts or not all(
            isinstance(p, Mapping) and isinstance(p.get("source"), str) for p in self.parts
        ):  # fmt: skip
            raise UserError("data.parts of the source 'mixture' names what is mixed: a tuple of parts as "
                            f"dict(source='folder', path='/a', weight=3) expected, {self.parts!r} given.")  # fmt: skip
        specs, weights = [], []
        for number, part in enumerate(self.parts):
            splits, weight, name = part.get("split", {}), part.get("weight", 1), part["source"]
            if name == "mixture":
                raise UserError(f"data.parts[{number}] is a mixture itself: write its parts into the outer one.")
            if not isinstance(splits, Mapping) or not all(isinstance(e, str) for kv in splits.items() for e in kv):
                raise UserError(f"data.parts[{number}]: split is {splits!r}; a dict as {{'train': 'train[:90%]', "
                                "'test': 'train[90%:]'} expected.")  # fmt: skip
            if not isinstance(weight, int | float) or isinstance(weight, bool):
                raise UserError(f"data.parts[{number}]: weight is {weight!r}; a positive number expected.")
            fields = {k: v for k, v in part.items() if k not in ("source", "weight", "split")}
            try:
                specs.append((make_spec(name, fields), splits.get(split, split)))
            except UserError as error:
                raise UserError(f"data.parts[{number}]: {error}") from error
            weights.append(float(weight))
        interleave(weights)  # weights that cannot be used are said before any directory is read
        return Mixed([open_split(spec, expression) for spec, expression in specs], weights)


class Mixed(Source):
    """The records of `sources` one after the other."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]):
        self.sources, self.weights = tuple(sources), tuple(weights)
        self.ends = np.cumsum([len(s) for s in sources])
        _check_leaves(self.sources)
        self.labels, self.classes = united(self.sources)
        self.multilabel = self.sources[0].multilabel

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(
            Part(int(end) - len(source), len(source), weight)
            for source, end, weight in zip(self.sources, self.ends, self.weights, strict=True)
        )

    def __getitem__(self, i: int) -> dict[str, Any]:
        source, j = self._at(i)
        return source[j] | {"label": label_of(self.labels, i)}

    def _at(self, i: int) -> tuple[Source, int]:
        i = range(len(self))[i]
        part = int(np.searchsorted(self.ends, i, side="right"))
        return self.sources[part], i - (int(self.ends[part - 1]) if part else 0)

    def name(self, i: int) -> str:
        """With the part's number, since two parts may hold files of the same name."""
        source, j = self._at(i)
        return f"{next(p for p, s in enumerate(self.sources) if s is source)}:{source.name(j)}"

    def where(self, i: int) -> str:
        source, j = self._at(i)
        return source.where(j)

    def describe(self) -> str:
        shares = np.array(self.weights) / sum(self.weights)
        lines = [f"  {share:6.1%} of training: {s.describe()}" for share, s in zip(shares, self.sources, strict=True)]
        return "\n".join([f"mixture: {len(self)} records, {label_phrase(self)}", *lines])


def united(sources: Sequence[Source]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(labels of all records, classes of all by name, in order of appearance); -1 and () if a source is unlabelled."""
    if all(s.multilabel for s in sources):
        return _united_rows(sources)
    shapes = {s.labels.shape[1:] for s in sources}
    if len(shapes) > 1 or any(s.multilabel for s in sources):
        raise UserError("Sources cannot be joined of which some have a label per record and others one per token, or "
                        "several per record.")  # fmt: skip
    labels = np.concatenate([s.labels for s in sources]).astype(np.int32)
    if not all(s.classes for s in sources):
        return np.full_like(labels, -1), ()
    number: dict[str, int] = {}
    parts = []
    for source in sources:
        remap = np.array([number.setdefault(c, len(number)) for c in source.classes] + [-1], np.int32)
        parts.append(remap[source.labels])  # -1 takes the last
    return np.concatenate(parts), tuple(number)


def _united_rows(sources: Sequence[Source]) -> tuple[np.ndarray, tuple[str, ...]]:
    """`united` of sources with rows of 0 and 1: a class that a source does not know is 0 there."""
    classes = tuple(dict.fromkeys(c for s in sources for c in s.classes))
    labels = np.zeros((sum(map(len, sources)), len(classes)), np.int32)
    start = 0
    for source in sources:
        rows = labels[start : start + len(source)]
        rows[:, [classes.index(c) for c in source.classes]] = source.labels
        rows[source.labels.min(axis=1) < 0] = -1
        start += len(source)
    return labels, classes


def _check_leaves(sources: Sequence[Source]) -> None:
    """All records hold arrays of the same names, as the first readable one of each source shows."""
    leaves = [_leaves(source) for source in sources]
    for source, found in zip(sources, leaves, strict=True):
        if found != leaves[0]:
            raise UserError(
                f"The parts of a mixture hold different things: {', '.join(sorted(leaves[0]))} in "
                f"{sources[0].name(0)}, {', '.join(sorted(found))} in {source.name(0)}. Mix sources whose records have "
                "the same names."
            )


def _leaves(source: Source) -> set[str]:
    for i in range(min(len(source), TRIED)):
        try:
            return set(source[i]) - {"label"}
        except (BadImage, OSError) as error:
            reason = f"{source.where(i)}: {error}"
    raise UserError(f"The first records of a part of the mixture cannot be read. The last was {reason}.")
