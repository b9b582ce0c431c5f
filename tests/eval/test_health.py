import numpy as np
import pytest

from mae_jax.eval.health import health, lidar, rankme, spread


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


# LiDAR ----------------------------------------------------------------------------------------------------------------


def corners(d):
    """2^d samples at the corners of a cube: their covariance is the identity."""
    return np.array(np.meshgrid(*[[-1.0, 1.0]] * d)).reshape(d, -1).T


def test_lidar_of_identical_views_is_the_effective_rank_of_the_samples():
    """Nothing within: W is delta times the identity, and the eigenvalues are those of B but for a factor."""
    x = corners(4) * np.array([2.0, 1.0, 1.0, 0.0])
    views = np.repeat(x[:, None], 3, axis=1)
    share = np.array([4.0, 1.0, 1.0]) / 6
    assert lidar(views) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)


def test_lidar_divides_by_the_scatter_of_the_views():
    """B = diag(b), W = diag(w): the eigenvalues are b / w, worked out here for one direction that is only noise."""
    b, w = np.array([1.0, 4.0, 0.0]), np.array([1.0, 2.0, 50.0])
    means, off = corners(3) * np.sqrt(b), corners(3) * np.sqrt(w)
    views = means[:, None] + off[None]  # every sample has the same scatter
    share = np.array([1.0, 2.0]) / 3
    assert lidar(views, delta=1e-9) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    assert rankme(views.reshape(-1, 3)) > 2.2  # RankMe takes the noise for a third direction


def test_lidar_of_isotropic_samples_is_the_dimension_and_of_few_samples_at_most_one_less_than_them():
    rng = np.random.default_rng(0)
    views = rng.normal(size=(4000, 1, 6)) + 0.3 * rng.normal(size=(4000, 5, 6))
    assert lidar(views) == pytest.approx(6, rel=0.01)
    few = rng.normal(size=(4, 1, 6)) + 0.01 * rng.normal(size=(4, 5, 6))
    assert lidar(few) <= 3.01


def test_lidar_of_views_without_samples():
    assert np.isfinite(lidar(np.zeros((4, 2, 3))))
