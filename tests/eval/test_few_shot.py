import numpy as np
import pytest
from digits import pixels
from sklearn.linear_model import Ridge

from mae_jax.core.errors import UserError
from mae_jax.eval import few_shot
from mae_jax.eval.features import Labelled


@pytest.mark.parametrize(("samples", "features"), [(20, 7), (7, 20)])
def test_scores_agree_with_scikit_learn(samples, features):
    rng = np.random.default_rng(0)
    x, y, queries = (
        rng.normal(3, 2, (samples, features)),
        rng.normal(size=(samples, 4)),
        rng.normal(size=(5, features)),
    )
    scale = ((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()
    expected = Ridge(alpha=0.3 * scale).fit(x, y).predict(queries)
    np.testing.assert_allclose(few_shot.ridge_scores(x, y, queries, 0.3), expected, atol=1e-10)


def test_primal_equals_dual():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 6)), rng.normal(size=(9, 3))
    np.testing.assert_allclose(few_shot._primal(x, y, 0.7), few_shot._dual(x, y, 0.7), atol=1e-12)


def test_digits_pixels():
    """Raw pixels, 5 shots: issue 2's prototype found 82.0."""
    found = few_shot.accuracy(*pixels())
    assert found.accuracy == pytest.approx(82.0, abs=1.5)
    assert 0.3 < found.interval < 2.5
    assert few_shot.accuracy(*pixels()) == found


def test_more_shots_are_better_and_the_scale_is_irrelevant():
    train, test = pixels()
    one, ten = (few_shot.accuracy(train, test, shots=n).accuracy for n in (1, 10))
    assert one < 70 < 85 < ten
    scaled = (Labelled(split.features * np.float32(1e-4), split.labels) for split in (train, test))
    assert few_shot.accuracy(*scaled, shots=10).accuracy == pytest.approx(ten, abs=0.2)


def test_interval_is_students():
    """scipy-free: t(0.975, 3) = 3.1824; four draws."""
    train, test = pixels()
    draws = [few_shot.accuracy(train, test, draws=n) for n in (1, 2, 3, 4)]
    means = np.array([d.accuracy for d in draws])
    each = np.diff(np.concatenate([[0.0], means * np.arange(1, 5)]))  # undo the running means
    assert draws[3].interval == pytest.approx(3.1824 * each.std(ddof=1) / 2, rel=1e-4)
    assert draws[0].interval == 0.0


def test_pick_is_balanced_without_repeats():
    labels = np.array([2] * 5 + [9] * 30)
    ids = few_shot.pick(labels, 5, np.random.default_rng(0))
    assert len(set(ids.tolist())) == 10
    assert labels[ids].tolist() == [2] * 5 + [9] * 5


def test_collapsed_features_are_at_chance():
    train, test = (Labelled(np.ones((len(s.labels), 8), np.float32), s.labels) for s in pixels())
    assert few_shot.accuracy(train, test).accuracy < 15


def test_a_class_with_too_few_samples_is_named():
    few = Labelled(np.eye(6, dtype=np.float32), np.array([0, 0, 0, 0, 0, 7]))
    with pytest.raises(UserError, match="class 7 has 1"):
        few_shot.accuracy(few, few)
