"""The distance of directions (BYOL, Eq. 2)."""

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.losses.similarity import cosine_distance

P, Z = jax.random.normal(jax.random.key(0), (2, 5, 7))


def test_is_the_squared_distance_of_unit_vectors():
    p, z = (np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (P, Z))
    np.testing.assert_allclose(cosine_distance(P, Z), ((p - z) ** 2).sum(-1), rtol=1e-5)


def test_range_and_invariance_to_scale():
    np.testing.assert_allclose(cosine_distance(3.0 * P, P), 0.0, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(-0.5 * P, P), 4.0, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(7.0 * P, 0.1 * Z), cosine_distance(P, Z), rtol=1e-5)


def test_a_zero_vector_has_a_finite_gradient():
    gradient = jax.grad(lambda p: cosine_distance(p, Z).sum())(jnp.zeros_like(P))
    assert jnp.isfinite(gradient).all()
