"""Normalised pixels: the sheet's closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.losses.masked import masked_mean, squared_error
from mae_jax.targets import pixels

X = jax.random.normal(jax.random.key(0), (2, 5, 48)) * 3 + 1


def test_variance_is_unbiased_and_epsilon_inside_the_root():
    x = np.asarray(X, np.float64)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(pixels.normalise(X), expected, rtol=1e-4, atol=1e-5)
    flat = jnp.zeros((1, 1, 12)) + 0.5
    np.testing.assert_allclose(pixels.normalise(flat), 0, atol=1e-6)


def test_predicting_zero_costs_n_minus_1_over_n():
    loss, _ = masked_mean(squared_error(X * 0, pixels.normalise(X)), X[:, :, 0] > -99)
    np.testing.assert_allclose(loss, 47 / 48, rtol=1e-4)


def test_affine_changes_of_a_patch_do_not_matter():
    np.testing.assert_allclose(pixels.normalise(X * 2.5 + 7), pixels.normalise(X), atol=1e-4)


def test_paint():
    hidden = jnp.array([[True, False, True, False, False]] * 2)
    found = pixels.paint(X, X + 1, hidden)
    np.testing.assert_array_equal(found["pasted"], np.where(hidden[:, :, None], X + 1, X))
    np.testing.assert_array_equal(found["masked"], np.where(hidden[:, :, None], 0, X))
