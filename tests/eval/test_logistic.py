"""Against scikit-learn on the same features, and against the conditions of an optimum."""

import jax
import numpy as np
import pytest
from digits import pixels
from sklearn.linear_model import LogisticRegression

from mae_jax.core.mesh import make_mesh
from mae_jax.eval import linear, logistic


@pytest.fixture(scope="module")
def standardised():
    train, test = pixels()
    mean, std = linear.moments(train.features)
    return linear.standardise(train.features, mean, std), linear.standardise(test.features, mean, std)


def objective(w, x, y, strength):
    """scikit-learn's, over n, in float64."""
    logits = x.astype(np.float64) @ w[:-1] + w[-1]
    top = logits.max(axis=1, keepdims=True)
    entropy = (np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[np.arange(len(y)), y]).mean()
    return entropy + 0.5 * np.square(w[:-1]).sum() / (strength * len(y))


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_optimum_is_scikit_learns(standardised, strength):
    """The same value of the objective, coefficients (at strong regularisation), and answers within 0.3 points."""
    (train, test), (x, queries) = pixels(), standardised
    w = np.float64(logistic.solve(logistic.place(x, train.labels), strength, classes=10).w)
    peer = LogisticRegression(C=strength, max_iter=5000, tol=1e-6).fit(np.float64(x), train.labels)
    theirs = np.concatenate([peer.coef_.T, peer.intercept_[None]])
    assert objective(w, x, train.labels, strength) == pytest.approx(
        objective(theirs, x, train.labels, strength), rel=1e-4, abs=3e-5
    )
    if strength <= 1:
        off = w - w.mean(axis=1, keepdims=True)  # a constant over the classes changes nothing
        np.testing.assert_allclose(off[:-1], theirs[:-1] - theirs[:-1].mean(axis=1, keepdims=True), atol=6e-3)
    found = 100 * float(((queries @ w[:-1] + w[-1]).argmax(axis=1) == test.labels).mean())
    assert found == pytest.approx(100 * peer.score(np.float64(queries), test.labels), abs=0.3)


def test_gradient_vanishes_and_a_warm_start_ends_at_the_same_place(standardised):
    train, x = pixels()[0], standardised[0]
    problem = logistic.place(x, train.labels)
    cold = logistic.solve(problem, 1.0, classes=10)
    assert float(cold.gradient) <= 1e-5
    warm = logistic.solve(problem, 1.0, logistic.solve(problem, 0.3, classes=10).w, classes=10)
    assert int(warm.iterations) < int(cold.iterations)
    y = train.labels
    assert objective(np.float64(warm.w), x, y, 1.0) == pytest.approx(objective(np.float64(cold.w), x, y, 1.0), rel=1e-5)


def test_held_out_samples_do_not_enter_the_fit(standardised):
    """A fit with weights of 0 is the fit without those samples; their loss is what scikit-learn would say."""
    from sklearn.metrics import log_loss

    train, x = pixels()[0], standardised[0]
    held = linear.held_out(train.labels)
    found = logistic.solve(logistic.place(x, train.labels, held), 0.1, classes=10)
    peer = LogisticRegression(C=0.1, max_iter=1000, tol=1e-6).fit(np.float64(x[~held]), train.labels[~held])
    assert float(found.held_loss) == pytest.approx(
        log_loss(train.labels[held], peer.predict_proba(np.float64(x[held]))), rel=2e-3
    )


def test_eight_devices_are_one(standardised):
    train, x = pixels()[0], standardised[0]
    one = logistic.solve(logistic.place(x, train.labels), 0.1, classes=10)
    placed = logistic.place(x, train.labels, None, make_mesh(data=4, fsdp=2))
    assert len(placed.x.sharding.device_set) == 8 and placed.x.shape[0] % 8 == 0
    eight = logistic.solve(placed, 0.1, classes=10)
    np.testing.assert_allclose(one.w, eight.w, atol=2e-3)


def test_separable_classes_and_a_useless_feature():
    """Two points on a line: by symmetry w = (-a, a), and a solves a = 2 C sigmoid(-2 a) (the sum of n C / n)."""
    x = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    w = np.asarray(logistic.solve(logistic.place(x, np.array([1, 0])), 0.5, classes=2, tolerance=1e-7).w)
    a = w[0, 1]
    assert w[0, 0] == pytest.approx(-a, abs=1e-5) and np.abs(w[1:]).max() < 1e-5
    assert a == pytest.approx(2 * 0.5 / (1 + np.exp(2 * a)), abs=1e-4)


def test_compiles_once_for_a_path(standardised):
    train, x = pixels()[0], standardised[0]
    problem = logistic.place(x, train.labels)
    jax.block_until_ready(logistic.solve(problem, 0.1, classes=10))
    before = logistic._solve._cache_size()
    logistic.solve(problem, 7.0, logistic.solve(problem, 3.0, classes=10).w, classes=10, iterations=5)
    assert logistic._solve._cache_size() == before
