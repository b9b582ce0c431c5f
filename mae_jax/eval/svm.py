"""Support vector machine on features: how graph classification is scored (GraphMAE, Sec. 4.2; InfoGraph)."""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

from mae_jax.core.errors import UserError
from mae_jax.eval.features import Labelled

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the RBF machine, chosen inside each fold's training part
FOLDS = 10


class CrossValidated(NamedTuple):
    """Percent, over the folds: mean, and half width of its 95 % interval (Student's t)."""

    accuracy: float
    interval: float


def accuracy(data: Labelled, *, folds: int = FOLDS, seed: int = 0) -> CrossValidated:
    """Stratified cross-validation of an RBF support vector machine.

    Raises:
      UserError: a class with fewer samples than folds.
    """
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.svm import SVC

    rarest = np.bincount(data.labels)[np.unique(data.labels)].min()
    if rarest < folds:
        raise UserError(
            f"the 'svm' probe needs {folds} samples of every class, one for each fold, and the rarest has {rarest}."
        )
    scores = []
    for fit, score in StratifiedKFold(folds, shuffle=True, random_state=seed).split(data.features, data.labels):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")  # the inner folds may be short
            machine = GridSearchCV(SVC(), {"C": STRENGTHS}).fit(data.features[fit], data.labels[fit])
        scores.append(100 * machine.score(data.features[score], data.labels[score]))
    half = stats.t.ppf(0.975, folds - 1) * np.std(scores, ddof=1) / np.sqrt(folds)
    return CrossValidated(float(np.mean(scores)), float(half))
