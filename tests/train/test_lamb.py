"""LAMB against optax's Adam and closed forms; the authors' trajectory is in tests/golden/spark/lamb.npz."""

import jax.numpy as jnp
import numpy as np
import optax

from mae_jax.train.lamb import lamb

PARAMS = {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.array([2.0, 0.0])}
GRADS = {"kernel": jnp.array([[0.5, -0.25]]), "bias": jnp.array([1.0, -8.0])}
MULTIPLIERS = {"kernel": 1.0, "bias": 0.0}


def direction(steps=1, decay=0.0, params=PARAMS, **options):
    optimizer = lamb(0.9, 0.99, 1e-6, decay, MULTIPLIERS, **options)
    state = optimizer.init(params)
    for step in range(steps):
        out, state = optimizer.update(GRADS, state, params, step=step)
    return out


def test_what_decays_has_the_norm_of_its_parameter():
    """|direction| = |p| = 5, along Adam's direction plus decay * p."""
    out = direction(decay=0.1)["kernel"]
    np.testing.assert_allclose(jnp.linalg.norm(out), 5.0, rtol=1e-6)
    expected = np.array([[1.0, -1.0]]) + 0.1 * np.array([[3.0, 4.0]])  # Adam's first step is the sign
    np.testing.assert_allclose(out / jnp.linalg.norm(out), expected / np.linalg.norm(expected), rtol=1e-4)


def test_what_does_not_decay_is_adam():
    adam = optax.scale_by_adam(0.9, 0.99, 1e-6)
    state = adam.init(PARAMS)
    for _ in range(3):
        expected, state = adam.update(GRADS, state)
    np.testing.assert_allclose(direction(3, decay=0.1)["bias"], expected["bias"], rtol=1e-6)


def test_decay_follows_the_step_that_is_given():
    """A decay of 0 at step 0 and much at step 1: the second direction is along the parameter."""
    out = direction(2, decay=lambda step: 1e6 * step)["kernel"]
    np.testing.assert_allclose(out, PARAMS["kernel"], rtol=1e-4)


def test_always_adapt_scales_what_does_not_decay_too():
    np.testing.assert_allclose(jnp.linalg.norm(direction(always_adapt=True)["bias"]), 2.0, rtol=1e-6)


def test_without_bias_correction_the_first_step_is_larger():
    """m = 0.1 g, v = 0.01 g^2: m / sqrt(v) is 1 all the same for these b1, b2; with b2 = 0.96 it is 1/2."""
    raw = lamb(0.9, 0.96, 0.0, 0.0, MULTIPLIERS, bias_correction=False)
    out, _ = raw.update(GRADS, raw.init(PARAMS), PARAMS)
    np.testing.assert_allclose(out["bias"], [0.5, -0.5], rtol=1e-5)


def test_a_zero_parameter_keeps_adam_s_direction():
    """No trust ratio where either norm is 0, or nothing would ever leave zero."""
    zero = {"kernel": jnp.zeros((1, 2)), "bias": PARAMS["bias"]}
    np.testing.assert_allclose(direction(decay=0.1, params=zero)["kernel"], [[1.0, -1.0]], rtol=1e-4)
