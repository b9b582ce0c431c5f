"""Scores -> Mask: the invariants of the sheet (papers/mae, "Invariants")."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.masking import select as m


@pytest.mark.parametrize(
    "n, ratio, keep", [(196, 0.75, 49), (256, 0.75, 64), (16, 0.625, 6), (10, 0.6, 4), (5, 0.6, 2), (196, 0.0, 196)]
)
def test_keep_counts(n, ratio, keep):
    """The counts that the sheet states, and int(n (1 - r)) in float64."""
    assert m.keep_count(n, ratio) == keep == int(n * (1 - ratio))


def test_float32_would_have_counted_differently():
    """Why the count is made on the host: at r = 0.6, float32 is wrong for many n (design.md: 600 of n <= 3000)."""
    wrong = sum(int(np.float32(n) * (np.float32(1) - np.float32(0.6))) != m.keep_count(n, 0.6) for n in range(3, 3001))
    assert wrong == 600


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_ratios_outside_the_interval_are_refused(ratio):
    with pytest.raises(UserError, match=r"not in \[0, 1\)"):
        m.keep_count(16, ratio)


def test_a_ratio_that_keeps_nothing_is_refused():
    with pytest.raises(UserError, match="leaves no visible token of 16"):
        m.keep_count(16, 0.95)


@pytest.mark.parametrize("order", ["score", "raster"])
@pytest.mark.parametrize("keep", [1, 5, 16])
def test_invariants(order, keep):
    scores = jax.random.uniform(jax.random.key(0), (3, 16))
    mask = m.select(scores, keep, order)
    both = np.concatenate([mask.keep_ids, mask.drop_ids], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(16), (3, 1)))
    np.testing.assert_array_equal(
        np.take_along_axis(both, np.asarray(mask.restore_ids), 1), np.tile(np.arange(16), (3, 1))
    )
    np.testing.assert_array_equal(mask.hidden.sum(axis=1), 16 - keep)
    assert not np.take_along_axis(np.asarray(mask.hidden), np.asarray(mask.keep_ids), 1).any()
    if keep < 16:  # the kept scores are the lowest
        kept = np.take_along_axis(np.asarray(scores), np.asarray(mask.keep_ids), 1)
        assert kept.max(1).max() <= np.take_along_axis(np.asarray(scores), np.asarray(mask.drop_ids), 1).min(1).max()
        assert (kept.max(1) < np.take_along_axis(np.asarray(scores), np.asarray(mask.drop_ids), 1).min(1)).all()
    if order == "raster":
        assert (np.diff(np.asarray(mask.keep_ids), axis=1) > 0).all()
    else:
        np.testing.assert_array_equal(mask.keep_ids, np.argsort(np.asarray(scores), axis=1)[:, :keep])


def test_ties_are_broken_by_position():
    mask = m.select(jnp.zeros((1, 6)), 4)
    np.testing.assert_array_equal(mask.keep_ids, [[0, 1, 2, 3]])


def test_nothing_hidden_is_the_identity():
    mask = m.nothing_hidden(2, 5)
    np.testing.assert_array_equal(mask.keep_ids, np.tile(np.arange(5), (2, 1)))
    assert mask.drop_ids.shape == (2, 0) and not mask.hidden.any()


@pytest.mark.parametrize("order", ["score", "raster"])
def test_a_second_view_of_one_draw_is_disjoint(order):
    scores = jax.random.uniform(jax.random.key(0), (3, 16))
    first, second = m.select(scores, 4, order), m.select(scores, 4, order, start=4)
    ranks = np.asarray(m.invert(jnp.argsort(scores, axis=1)))
    for mask, low in ((first, 0), (second, 4)):
        np.testing.assert_array_equal(mask.hidden, ~((ranks >= low) & (ranks < low + 4)))
    assert (np.asarray(first.hidden) | np.asarray(second.hidden)).all()
    with pytest.raises(ValueError, match="passing over 13"):
        m.select(scores, 4, start=13)


def test_the_complement_shows_what_was_hidden():
    mask = m.select(jax.random.uniform(jax.random.key(0), (3, 16)), 5)
    other = m.complement(mask)
    np.testing.assert_array_equal(other.hidden, ~mask.hidden)
    np.testing.assert_array_equal(other.keep_ids, mask.drop_ids)
    for found, wanted in zip(*map(jax.tree.leaves, (m.complement(other), mask)), strict=True):
        np.testing.assert_array_equal(found, wanted)
