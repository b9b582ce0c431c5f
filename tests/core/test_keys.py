"""Named random streams: what changes a draw, and what must not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.keys import Context


def ctx(seed=0, step=0, rows=None, **kwargs):
    return Context(jax.random.key(seed), step, rows, **kwargs)


def test_a_draw_depends_on_seed_step_name_and_row():
    base = ctx().uniform("mask", (4, 8))
    assert not np.array_equal(base, ctx(seed=1).uniform("mask", (4, 8)))
    assert not np.array_equal(base, ctx(step=1).uniform("mask", (4, 8)))
    assert not np.array_equal(base, ctx().uniform("other", (4, 8)))
    assert len({tuple(row) for row in np.asarray(base).tolist()}) == 4
    np.testing.assert_array_equal(base, ctx().uniform("mask", (4, 8)))


def test_a_row_keeps_its_draw_wherever_it_lies():
    whole = ctx().uniform("mask", (8, 5))
    np.testing.assert_array_equal(ctx(rows=jnp.arange(8)[1::2]).uniform("mask", (4, 5)), whole[1::2])


def test_drawing_twice_is_an_error_and_fork_is_the_way_out():
    c = ctx()
    first = c.uniform("mask", (2, 3))
    with pytest.raises(ValueError, match="'mask' was drawn twice"):
        c.uniform("mask", (2, 3))
    second = c.fork("align").uniform("mask", (2, 3))
    assert not np.array_equal(first, second)
    with pytest.raises(ValueError, match="'align' was drawn twice"):
        c.fork("align")


def test_given_replaces_draws_and_decisions():
    noise = jnp.arange(6.0).reshape(2, 3)
    c = ctx(given={"mask": noise, "view/order": jnp.array([1, 0])})
    np.testing.assert_array_equal(c.uniform("mask", (2, 3)), noise)
    np.testing.assert_array_equal(c.fork("view").given("order", lambda: pytest.fail("made")), [1, 0])
    np.testing.assert_array_equal(c.given("other", lambda: jnp.ones(2)), [1, 1])
    with pytest.raises(ValueError, match=r"given 'mask' has shape \(2, 3\)"):
        ctx(given={"mask": noise}).uniform("mask", (4, 3))


def test_moments_of_the_draws():
    u, n = ctx().uniform("u", (64, 1000)), ctx().normal("n", (64, 1000))
    np.testing.assert_allclose([u.mean(), u.var(), n.mean(), n.var()], [1 / 2, 1 / 12, 0, 1], atol=0.02)
