"""Against scikit-learn's, with ties and a class without positives; by hand; what is refused."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mae_jax.core.errors import UserError
from mae_jax.eval.average_precision import mean_average_precision


@pytest.mark.parametrize("levels", [2, 7, 0], ids=["mostly ties", "ties", "none"])
def test_equals_sklearn(levels):
    rng = np.random.default_rng(levels)
    scores = rng.normal(size=(203, 6)).astype(np.float32)
    if levels:
        scores = np.floor(scores * levels / 2).astype(np.float32)
    labels = (rng.uniform(size=scores.shape) < np.array([0.02, 0.1, 0.5, 0.9, 0, 1])[None]).astype(np.int32)
    labels[0, 0] = 1
    mean, each = mean_average_precision(scores, labels)
    want = [average_precision_score(labels[:, c], scores[:, c]) for c in (0, 1, 2, 3, 5)]
    np.testing.assert_allclose(each[[0, 1, 2, 3, 5]], want, rtol=1e-12)
    assert np.isnan(each[4]) and mean == pytest.approx(np.mean(want), rel=1e-12)


def test_by_hand():
    """Positives at ranks 1 and 3 of 4; in the second column ranks 2 and 3 are equal and enter together."""
    scores = np.array([[4.0, 4], [3, 2], [2, 2], [1, 1]])
    labels = np.array([[1, 1], [0, 0], [1, 1], [0, 0]])
    mean, each = mean_average_precision(scores, labels)
    np.testing.assert_allclose(each, [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2])
    labels = labels[[0, 2, 1, 3]]
    _, each = mean_average_precision(scores, labels)
    np.testing.assert_allclose(each, [1, (1 + 2 / 3) / 2])  # the order among equals changes nothing


@pytest.mark.parametrize(
    "scores, labels, word",
    [
        ([[np.nan], [1.0]], [[1], [0]], "finite"),
        ([[0.0], [1.0]], [[2], [0]], "0 and 1"),
        ([[0.0], [1.0]], [[0], [0]], "no sample"),
    ],
)
def test_what_is_refused(scores, labels, word):
    with pytest.raises(UserError, match=word):
        mean_average_precision(np.array(scores), np.array(labels))
