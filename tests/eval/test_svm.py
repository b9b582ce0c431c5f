import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from mae_jax.core.errors import UserError
from mae_jax.eval import svm
from mae_jax.eval.features import Labelled


def rings(n=120, seed=0):
    """Two rings: no line parts them, an RBF machine does."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + 2 * labels + 0.3 * rng.normal(size=n)
    return Labelled(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32), labels)


def test_a_machine_with_the_best_strength_alone_is_no_better():
    data = rings()
    found = svm.accuracy(data)
    folds = list(StratifiedKFold(10, shuffle=True, random_state=0).split(data.features, data.labels))
    best = max(
        np.mean([
            100 * SVC(C=c).fit(data.features[f], data.labels[f]).score(data.features[s], data.labels[s])
            for f, s in folds
        ])
        for c in svm.STRENGTHS
    )  # fmt: skip
    assert 95 < found.accuracy <= best + 1 and 0 <= found.interval < 5


def test_labels_without_meaning_are_at_chance():
    data = rings()
    shuffled = Labelled(data.features, np.random.default_rng(1).permutation(data.labels))
    assert 30 < svm.accuracy(shuffled).accuracy < 70


def test_too_few_samples_are_named():
    with pytest.raises(UserError, match="the rarest has 2"):
        svm.accuracy(Labelled(np.zeros((12, 2), np.float32), np.array([0] * 10 + [1] * 2)))
