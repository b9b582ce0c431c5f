"""Views folded into the batch and back, without moving anything between devices."""

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.mesh import batch_sharding, make_mesh
from mae_jax.core.views import fold, unfold


def test_views_of_a_sample_lie_next_to_each_other():
    a, b = jnp.arange(6.0).reshape(3, 2), 10 + jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(fold(a, b), [[0, 1], [10, 11], [2, 3], [12, 13], [4, 5], [14, 15]])
    for view, back in zip((a, b), unfold(fold(a, b), 2), strict=True):
        np.testing.assert_array_equal(back, view)
    np.testing.assert_array_equal(fold({"x": a}, {"x": b})["x"], fold(a, b))


def test_no_collective_under_a_sharded_batch():
    lies = batch_sharding(make_mesh())

    def there_and_back(a, b):
        return unfold(2 * fold(a, b), 2)

    x = jax.device_put(jnp.ones((16, 3)), lies)
    text = jax.jit(there_and_back, out_shardings=lies).lower(x, x).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))
