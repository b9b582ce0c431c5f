"""InfoNCE against numpy, and what gets a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.losses.contrast import info_nce, unit

A, B = (unit(jax.random.normal(jax.random.key(i), (5, 8))) for i in range(2))


def test_loss_and_share_against_numpy():
    loss, share = info_nce(A, B, 7.0)
    logits = 7.0 * np.asarray(A, np.float64) @ np.asarray(B, np.float64).T
    expected = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    assert share == np.float32((logits.argmax(1) == np.arange(5)).mean())
    assert info_nce(A, A, 100.0)[1] == 1.0


def test_equal_vectors_tell_nothing():
    np.testing.assert_allclose(info_nce(jnp.ones((6, 4)) / 2, jnp.ones((6, 4)) / 2, 14.3)[0], np.log(6), rtol=1e-6)


@pytest.mark.parametrize("stop", [False, True])
def test_gradient_of_the_others(stop):
    anchors, others = jax.grad(lambda a, b: info_nce(a, b, 7.0, stop_gradient=stop)[0], (0, 1))(A, B)
    assert jnp.abs(anchors).max() > 0 and (jnp.abs(others).max() == 0) == stop


def test_unit_vectors():
    np.testing.assert_allclose(jnp.linalg.norm(A, axis=1), 1, rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros((1, 3)))).all()
