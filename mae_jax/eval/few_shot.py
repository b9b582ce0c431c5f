"""Few-shot accuracy: ridge regression to one-hot classes on n samples of each class, over several draws."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from mae_jax.core.errors import UserError
from mae_jax.eval.features import Labelled
from mae_jax.eval.knn import unit

# Relative to the mean squared length of the centred shots; one value for all feature sets, a compromise
# between them. Digits, 5 shots, at 0.1 / 0.3 / 1 / 3: a pretrained encoder 89.5 / 89.7 / 88.9 / 87.4, raw
# pixels 79.0 / 82.1 / 83.7 / 83.4, a random encoder 61.0 / 54.0 / 42.9 / 33.5.
RIDGE = 0.3


class FewShot(NamedTuple):
    """Percent correct over the draws: mean, half its 95 % interval (Student's t; 0 for one draw), deviation."""

    accuracy: float
    interval: float
    deviation: float


def accuracy(
    train: Labelled, test: Labelled, *, shots: int = 5, draws: int = 20, ridge: float = RIDGE, seed: int = 0
) -> FewShot:
    """Percent of test samples got right by a ridge classifier on `shots` training samples of each class.

    Features are scaled to length 1. The draws depend on labels and seed alone: all feature sets see the same
    shots. The interval is that of the draw of shots; the test samples are the same each time.

    Raises:
      UserError: a class with fewer than `shots` training samples.
    """
    bank, queries = unit(train.features), unit(test.features)
    classes = np.unique(train.labels)
    percent = []
    for draw in range(draws):
        ids = pick(train.labels, shots, np.random.default_rng([seed, draw]))
        one_hot = (train.labels[ids, None] == classes).astype(np.float64)
        scores = ridge_scores(bank[ids], one_hot, queries, ridge)
        percent.append(100 * float((classes[scores.argmax(axis=1)] == test.labels).mean()))
    if draws == 1:
        return FewShot(percent[0], 0.0, 0.0)
    deviation = float(np.std(percent, ddof=1))
    interval = float(stats.t.ppf(0.975, draws - 1)) * deviation / math.sqrt(draws)
    return FewShot(float(np.mean(percent)), interval, deviation)


def pick(labels: Int[np.ndarray, " n"], shots: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """`shots` different positions of each class."""
    chosen = []
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        if len(ids) < shots:
            raise UserError(
                f"{shots}-shot evaluation needs {shots} training samples of every class, but class {label} "
                f"has {len(ids)}. Leave this protocol out of eval.protocols, or add samples."
            )
        chosen.append(rng.choice(ids, shots, replace=False))
    return np.concatenate(chosen)


def ridge_scores(
    x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m c"], queries: Float[np.ndarray, "q d"], ridge: float
) -> Float[np.ndarray, "q c"]:
    """Predictions of argmin_W |x W + b - y|^2 + ridge * mean|x - mean(x)|^2 * |W|^2, with a free offset b.

    Solved in the smaller of two spaces: m x m (dual) where there are fewer samples than features, else d x d.
    """
    x, y, queries = x.astype(np.float64), y.astype(np.float64), queries.astype(np.float64)
    centre, offset = x.mean(axis=0), y.mean(axis=0)
    x, y, queries = x - centre, y - offset, queries - centre
    scale = float((x**2).sum() / len(x))
    if scale == 0.0:  # all shots alike: nothing but the offset can be said
        return np.broadcast_to(offset, (len(queries), len(offset)))
    solve = _dual if len(x) < x.shape[1] else _primal
    return queries @ solve(x, y, ridge * scale) + offset


def _dual(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    return x.T @ np.linalg.solve(x @ x.T + strength * np.eye(len(x)), y)


def _primal(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
