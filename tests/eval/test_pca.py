"""Principal components against scikit-learn and numpy."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from mae_jax.core.errors import UserError
from mae_jax.eval.pca import principal


@pytest.mark.parametrize("n,d", [(12, 40), (200, 7), (30, 30)])
def test_equals_scikit_learn_up_to_sign(n, d):
    x = (np.random.default_rng(n).normal(size=(n, d)) * np.linspace(1, 4, d) + 3).astype(np.float32)
    found, theirs = principal(x, 3), PCA(3, svd_solver="full").fit(x.astype(np.float64))
    signs = np.sign((found.basis * theirs.components_).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.basis, signs * theirs.components_, atol=1e-8)
    np.testing.assert_allclose(found.share, theirs.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(found(x), theirs.transform(x.astype(np.float64)) * signs[:, 0], atol=1e-7)


def test_shares_are_numpys_singular_values():
    x = np.random.default_rng(0).normal(size=(50, 6))
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(principal(x, 6).share, singular**2 / (singular**2).sum(), rtol=1e-9)


@pytest.mark.parametrize("n,d", [(12, 40), (200, 7)])
def test_signs_do_not_depend_on_order_or_on_a_reflection(n, d):
    x = np.random.default_rng(1).normal(size=(n, d))
    found = principal(x, 2)
    assert (np.take_along_axis(found.basis, np.abs(found.basis).argmax(1)[:, None], 1) > 0).all()
    np.testing.assert_allclose(principal(x[::-1], 2).basis, found.basis, atol=1e-9)
    np.testing.assert_allclose(principal(-x, 2).basis, found.basis, atol=1e-9)


def test_too_few_samples_and_broken_features():
    with pytest.raises(UserError, match="3 principal components .* 3 vector"):
        principal(np.eye(3), 3)
    with pytest.raises(UserError, match="not finite"):
        principal(np.full((5, 4), np.nan), 2)
