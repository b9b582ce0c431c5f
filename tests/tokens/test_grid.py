"""patchify against the field's own definition, for any number of axes."""

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.tokens import grid


@pytest.mark.parametrize(
    "size, patch, c", [((8, 12), (4, 4), 3), ((8, 12), (2, 3), 1), ((6,), (3,), 2), ((4, 6, 8), (2, 3, 4), 5)]
)
def test_round_trip_and_order(size, patch, c):
    x = np.arange(2 * np.prod(size) * c, dtype=np.float32).reshape(2, *size, c)
    tokens = grid.patchify(jnp.asarray(x), patch)
    shape = grid.grid_shape(size, patch)
    np.testing.assert_array_equal(grid.unpatchify(tokens, shape, patch), x)
    for place in np.ndindex(*shape):  # raster order, and inside a token the axes in order, channel fastest
        block = x[(slice(None), *(slice(i * p, (i + 1) * p) for i, p in zip(place, patch)))]
        np.testing.assert_array_equal(tokens[:, np.ravel_multi_index(place, shape)], block.reshape(2, -1))


@pytest.mark.parametrize("size, patch", [((8, 8), (3, 4)), ((8, 8), (0, 2)), ((8,), (2, 2)), ((8, 8), (16, 8))])
def test_a_patch_that_does_not_divide_is_refused(size, patch):
    with pytest.raises(UserError, match="does not divide size"):
        grid.grid_shape(size, patch)
