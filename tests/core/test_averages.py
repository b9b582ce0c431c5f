import jax.numpy as jnp
import numpy as np

from mae_jax.core.averages import cosine_momentum, follow, linear_momentum


def test_momentum_1_keeps_and_0_copies():
    teacher, student = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -1.0])}
    np.testing.assert_array_equal(follow(teacher, student, 1.0)["w"], teacher["w"])
    np.testing.assert_array_equal(follow(teacher, student, 0.0)["w"], student["w"])
    np.testing.assert_allclose(follow(teacher, student, 0.75)["w"], [1.5, 1.25])


def test_schedules_end_where_they_say():
    found = [cosine_momentum(step, 100, 0.996) for step in (0, 50, 100, 300)]
    np.testing.assert_allclose(found, [0.996, 0.998, 1.0, 1.0], rtol=1e-6)
    found = [linear_momentum(step, 100, 0.9, 1.0) for step in (0, 25, 100, 300)]
    np.testing.assert_allclose(found, [0.9, 0.925, 1.0, 1.0], rtol=1e-6)
