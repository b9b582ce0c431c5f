"""scikit-learn's handwritten digits: 1797 real images of 8 x 8 grey pixels, part of the package (no download)."""

from dataclasses import dataclass

import numpy as np

from mae_jax.data.sources.base import Arrays, Source, Spec, split_name


@dataclass(frozen=True)
class Digits(Spec):
    """The UCI optical digits [1797, 8, 8, 1] uint8, ten classes; 1437 for training, 360 for testing, stratified."""

    def open(self, split: str) -> Source:
        split = split_name(split)
        from sklearn.datasets import (
            load_digits,  # slow to import, and only this source and photos need it
        )

        data = load_digits()
        images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
        keep = np.flatnonzero(stratified_test(data.target, test=360) == (split == "test"))
        return Arrays(images[keep], data.target[keep], "digits", tuple(map(str, data.target_names)), keep)


def stratified_test(labels: np.ndarray, test: int) -> np.ndarray:
    """Choose `test` of n records with every class in proportion, by a rule without random numbers.

    Sort the records by class (stable: within a class as they come), then take the records at which
    floor(rank * test / n) steps up: evenly spaced, so each class gives its share to within one.

    Returns: bool [n].
    """
    n = len(labels)
    rank = np.empty(n, np.int64)
    rank[np.argsort(labels, kind="stable")] = np.arange(n)
    return (rank + 1) * test // n > rank * test // n
