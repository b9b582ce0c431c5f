"""2-D ALiBi against the published slopes, and the invariants of the CROMA sheet."""

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.tokens import alibi


def test_slopes_are_those_of_the_paper():
    """Press et al., Sec. 3: 1/2 .. 1/256 for 8 heads, 1/2^0.5 .. for 16; their code's rule for 12."""
    np.testing.assert_allclose(alibi.slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(alibi.slopes(16), [2.0 ** -(i / 2) for i in range(1, 17)])
    np.testing.assert_allclose(alibi.slopes(12)[8:], [2.0**-e for e in (0.5, 1.5, 2.5, 3.5)])
    assert alibi.slopes(1).tolist() == [2.0**-8]


@pytest.mark.parametrize("heads, grid", [(4, (3, 5)), (6, (4, 4))])
def test_full_bias_is_minus_slope_times_distance(heads, grid):
    bias = np.asarray(alibi.full_bias(heads, grid))[0]
    n = grid[0] * grid[1]
    assert bias.shape == (heads, n, n)
    np.testing.assert_array_equal(bias, bias.swapaxes(1, 2))
    assert (bias[:, np.arange(n), np.arange(n)] == 0).all() and (bias <= 0).all()
    a, b = 0, 2 * grid[1] + 1  # two rows down, one column on
    np.testing.assert_allclose(bias[:, a, b], -alibi.slopes(heads) * 5**0.5, rtol=1e-6)
    if heads == 4:  # steep to flat, where the number of heads is a power of two
        assert (np.diff(bias[:, a, b]) > 0).all()


def test_bias_of_chosen_tokens_is_the_table_s():
    table = np.asarray(alibi.full_bias(3, (4, 5)))[0]
    queries, keys = np.array([[7, 0, 19], [3, 3, 11]]), np.array([[1, 2], [18, 0]])
    found = alibi.bias(3, (4, 5), jnp.asarray(queries), jnp.asarray(keys))
    for i in range(2):
        np.testing.assert_array_equal(found[i], table[:, queries[i]][:, :, keys[i]])
