"""Few-shot episodes of a labelled source: some classes, some training records of each, others to ask about."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec, split_name


@dataclass(frozen=True)
class Episode(Spec):
    """An n-way m-shot episode (ModelNet40 few-shot, Sharma and Kaul 2020): drawn by its number alone.

    Args:
        of: the keys of the source that it is drawn from, as dict(source="points", path="/a").
        way: classes. shot: training records of each. queries: test records of each, of the source's test split.
        fold: the episode's number.
    """

    of: Any
    way: int = 5
    shot: int = 10
    queries: int = 20
    fold: int = 0

    def open(self, split: str) -> Source:
        from mae_jax.data.sources import make_source  # the registry, which names this file

        if not isinstance(self.of, Mapping) or not isinstance(self.of.get("source"), str):
            raise UserError(
                f"data.of={self.of!r}: the keys of a source, as dict(source='points', path='/a'), expected."
            )
        if min(self.way - 1, self.shot, self.queries) < 1 or self.fold < 0:
            raise UserError(
                f"an episode of data.way={self.way} classes with data.shot={self.shot} and data.queries={self.queries} "
                f"records of each, number data.fold={self.fold}: at least 2, 1, 1 and 0 expected."
            )
        split = split_name(split)
        fields = {k: v for k, v in self.of.items() if k != "source"}
        source = make_source(self.of["source"], split, fields)
        if self.way > len(source.classes) or source.labels.ndim != 1:
            raise UserError(f"an episode of {self.way} classes cannot be drawn from {source.describe()}.")
        count = self.shot if split == "train" else self.queries
        chosen = np.random.default_rng([self.fold, self.way]).choice(len(source.classes), self.way, replace=False)
        rng = np.random.default_rng([self.fold, self.way, self.shot, split == "test"])
        picks = []
        for label in chosen:
            records = np.flatnonzero(source.labels == label)
            if len(records) < count:
                raise UserError(
                    f"class '{source.classes[label]}' has {len(records)} records ({split}); {count} needed."
                )
            picks.append(rng.choice(records, count, replace=False))
        return Drawn(source, np.concatenate(picks), np.repeat(np.arange(self.way), count), chosen, self, split)


class Drawn(Source):
    """The records `picks` of a source, with labels of their own."""

    def __init__(self, source: Source, picks: np.ndarray, labels: np.ndarray, chosen: np.ndarray, spec: Episode,
                 split: str):  # fmt: skip
        self.source, self.picks, self.spec, self.split = source, picks, spec, split
        self.labels, self.classes = labels.astype(np.int32), tuple(source.classes[c] for c in chosen)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.source[int(self.picks[i])] | {"label": int(self.labels[i])}

    def name(self, i: int) -> str:
        return self.source.name(int(self.picks[i]))

    def where(self, i: int) -> str:
        return self.source.where(int(self.picks[i]))

    def describe(self) -> str:
        s = self.spec
        return f"episode {s.fold}: {len(self)} records ({self.split}), {s.way} classes of {self.source.describe()}"
