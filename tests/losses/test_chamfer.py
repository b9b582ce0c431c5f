"""Chamfer distances against scipy's nearest neighbours, and at equal sets."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from mae_jax.losses.chamfer import chamfer

RNG = np.random.default_rng(0)
A, B = (jnp.asarray(RNG.standard_normal((5, n, 3)), jnp.float32) for n in (9, 7))


def test_both_kinds_are_those_of_nearest_neighbours():
    there = np.array([cKDTree(b).query(a)[0] for a, b in zip(A, B)])
    back = np.array([cKDTree(a).query(b)[0] for a, b in zip(A, B)])
    np.testing.assert_allclose(chamfer(A, B), (there**2).mean() + (back**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(chamfer(A, B, "l1"), (there.mean() + back.mean()) / 2, rtol=1e-6)


def test_order_does_not_matter_and_equal_sets_give_zero_with_a_gradient():
    shuffled = A[:, RNG.permutation(9)]
    np.testing.assert_allclose(chamfer(shuffled, B), chamfer(B, A), rtol=1e-6)
    for kind in ("l2", "l1"):
        value, gradient = jax.value_and_grad(chamfer)(shuffled, A, kind)
        assert value == 0 and np.isfinite(gradient).all()
