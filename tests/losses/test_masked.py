"""Losses over hidden tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.losses.masked import masked_mean, squared_error

PRED, TARGET = jax.random.normal(jax.random.key(0), (2, 3, 4, 6))
HIDDEN = jnp.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]], bool)


def test_against_numpy():
    loss, weight = masked_mean(squared_error(PRED, TARGET), HIDDEN)
    per_token = ((np.asarray(PRED) - np.asarray(TARGET)) ** 2).mean(-1)
    np.testing.assert_allclose(loss, per_token[np.asarray(HIDDEN)].mean(), rtol=1e-6)
    assert weight == 8


def test_visible_and_invalid_tokens_get_no_gradient():
    valid = jnp.array([[1, 1, 0, 1]] * 3, bool)
    grad = jax.grad(lambda p: masked_mean(squared_error(p, TARGET), HIDDEN, valid)[0])(PRED)
    counted = np.asarray(HIDDEN & valid)
    assert (np.asarray(grad)[~counted] == 0).all() and (np.asarray(grad)[counted] != 0).all()


def test_nothing_hidden_is_zero_not_nan():
    loss, weight = masked_mean(squared_error(PRED, TARGET), HIDDEN & False)
    assert loss == 0 and weight == 0
