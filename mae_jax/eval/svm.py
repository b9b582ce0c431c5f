"""Support vector machines on features.

Of an RBF kernel over folds: how graph classification is scored (GraphMAE, Sec. 4.2; InfoGraph). Linear, fitted to one
split and scored on the other: how encoders of point clouds are (ModelNet40 since Latent-GAN, Achlioptas et al. 2018).
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

from mae_jax.core.errors import UserError
from mae_jax.eval.features import Labelled
from mae_jax.eval.few_shot import pick

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the RBF machine, chosen inside each fold's training part
FOLDS = 10


LINEAR_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the linear machine, chosen inside the training split
LINEAR_FOLDS = 5  # for that


def linear(train: Labelled, test: Labelled, *, shots: int | None = None, seed: int = 0) -> tuple[float, float]:
    """(percent of test samples right, the chosen C) of a linear machine on standardised features.

    Args: shots: training samples of each class; None: all.

    Raises:
      UserError: a class with fewer training samples than that, or than two.
    """
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    features, labels = train.features, train.labels
    if shots is not None:
        ids = pick(labels, shots, np.random.default_rng(seed))
        features, labels = features[ids], labels[ids]
    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    if rarest < 2:
        raise UserError("the 'svm_linear' probe needs two training samples of every class, and one class has one.")
    machine = make_pipeline(StandardScaler(), SVC(kernel="linear"))
    folds = min(LINEAR_FOLDS, rarest)
    found = GridSearchCV(machine, {"svc__C": LINEAR_STRENGTHS}, cv=folds).fit(features, labels)
    return 100 * float(found.score(test.features, test.labels)), float(found.best_params_["svc__C"])


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
