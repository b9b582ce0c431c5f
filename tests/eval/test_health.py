import numpy as np
import pytest

from mae_jax.eval.health import health, rankme, spread


def test_rankme_of_an_orthonormal_set_is_its_dimension():
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 8)))
    assert rankme(q) == pytest.approx(8, rel=1e-4)


def test_rankme_of_known_singular_values():
    """Shares 1/2, 1/4, 1/4 have entropy 1.5 log 2, so the effective rank is 2^1.5."""
    assert rankme(np.diag([4.0, 2.0, 2.0])) == pytest.approx(2**1.5, rel=1e-5)
    assert rankme(1e3 * np.diag([4.0, 2.0, 2.0])) == pytest.approx(2**1.5, rel=1e-5)


def test_rankme_of_one_direction_and_of_nothing():
    line = np.outer(np.arange(1, 9), np.ones(5))
    assert rankme(line) == pytest.approx(1, abs=1e-4)
    assert np.isfinite(rankme(np.zeros((4, 3))))


def test_spread():
    """An even cross of unit vectors has deviation sqrt(1/d) per axis; the same vector everywhere has none."""
    cross = np.concatenate([np.eye(6), -np.eye(6)])
    assert spread(5 * cross) == pytest.approx(1, rel=1e-6)
    assert spread(np.tile([[1.0, 2.0, 3.0]], (7, 1))) == pytest.approx(0, abs=1e-6)
    assert spread(np.random.default_rng(0).normal(size=(4000, 64))) == pytest.approx(1, abs=0.02)


def test_health_names():
    assert set(health(np.eye(3))) == {"rankme", "spread"}
