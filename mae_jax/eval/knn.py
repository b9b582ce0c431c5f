"""Weighted k-nearest-neighbour classification by cosine (Wu et al., 2018, arXiv 1805.01978, Sec. 3.4)."""

from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int64, Shaped

from mae_jax.core.errors import UserError
from mae_jax.eval import neighbours
from mae_jax.eval.features import Labelled

CHUNK_BYTES = 2**27  # of one block of similarities


def accuracies(
    train: Labelled,
    test: Labelled,
    ks: Sequence[int] = (10,),
    temperature: float = 0.07,
    *,
    mesh: Mesh | None = None,
) -> dict[int, float]:
    """Percent of test samples whose class gets the largest sum of exp(cosine / temperature) of k neighbours.

    Deterministic: of equally similar samples the earlier is nearer; of equal votes the smaller class wins.

    Args:
      ks: how many neighbours vote; every one is counted from the same search.
      temperature: of the weights.
      mesh: the neighbours are found by its devices (eval/neighbours.py); None: by NumPy, in the same order.

    Raises:
      UserError: a k below 1 or above the number of training samples.
    """
    if not ks or min(ks) < 1 or max(ks) > len(train.labels):
        raise UserError(
            f"kNN with k={list(ks)} does not fit {len(train.labels)} training samples: every k must lie "
            f"between 1 and that number. Lower k or give more samples."
        )
    classes, votes_for = np.unique(train.labels, return_inverse=True)
    bank, queries = unit(train.features), unit(test.features)
    correct = dict.fromkeys(ks, 0)
    found = _by_numpy(bank, queries, max(ks)) if mesh is None else [neighbours.nearest(bank, queries, max(ks), mesh)]
    start = 0
    for similarity, ids in found:
        chunk = slice(start, start + len(ids))
        start = chunk.stop
        weight = np.exp(similarity.astype(np.float64) / temperature)
        for k in ks:
            winner = _vote(weight[:, :k], votes_for[ids[:, :k]], len(classes))
            correct[k] += int((classes[winner] == test.labels[chunk]).sum())
    return {k: 100 * n / len(queries) for k, n in correct.items()}


def _by_numpy(bank: np.ndarray, queries: np.ndarray, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(similarities, rows of the bank) of the neighbours of some queries after the other."""
    rows = max(1, CHUNK_BYTES // (4 * len(bank)))
    for start in range(0, len(queries), rows):
        similarity = queries[start : start + rows] @ bank.T
        ids = nearest_ids(similarity, k)
        yield np.take_along_axis(similarity, ids, axis=1), ids


def nearest_ids(similarity: Float32[np.ndarray, "m n"], k: int) -> Int64[np.ndarray, "m k"]:
    """Columns of the k largest entries of each row, largest first, ties by column; linear in n."""
    n = similarity.shape[1]
    threshold = np.partition(similarity, n - k, axis=1)[:, n - k, None]
    above, level = similarity > threshold, similarity == threshold
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (level & (level.cumsum(axis=1) <= room))
    ids = chosen.nonzero()[1].reshape(-1, k)
    order = np.argsort(-np.take_along_axis(similarity, ids, axis=1), axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1)


def unit(features: Shaped[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Rows scaled to length 1; a row of zeros stays zero."""
    x = features.astype(np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _vote(weight: np.ndarray, voted: np.ndarray, classes: int) -> np.ndarray:
    """Class with the largest sum of weights per row."""
    rows = np.arange(len(weight))[:, None] * classes
    votes = np.bincount((rows + voted).ravel(), weight.ravel(), minlength=len(weight) * classes)
    return votes.reshape(len(weight), classes).argmax(axis=1)
