"""take and restore: values, gradients without a scatter, and no collective under a sharded batch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.mesh import batch_sharding, make_mesh
from mae_jax.masking.select import select
from mae_jax.tokens.gather import gather, restore, take

B, N, K, D = 8, 12, 5, 3


@pytest.fixture
def case():
    keys = jax.random.split(jax.random.key(0), 3)
    mask = select(jax.random.uniform(keys[0], (B, N)), K)
    return mask, jax.random.normal(keys[1], (B, N, D)), jax.random.normal(keys[2], (1, 1, D))


def test_take_then_restore_puts_tokens_back(case):
    mask, x, fill = case
    back = restore(take(x, mask), mask, fill)
    np.testing.assert_array_equal(back, np.where(np.asarray(mask.hidden)[:, :, None], fill, x))


def test_values_are_those_of_numpy_indexing(case):
    mask, x, _ = case
    rows = np.arange(B)[:, None]
    np.testing.assert_array_equal(take(x, mask), np.asarray(x)[rows, np.asarray(mask.keep_ids)])
    ids = jnp.array([[0, 0, 7]] * B)
    np.testing.assert_array_equal(gather(x, ids), np.asarray(x)[rows, np.asarray(ids)])


def test_gradients_equal_those_of_plain_indexing(case):
    mask, x, fill = case
    weight = jax.random.normal(jax.random.key(9), (B, N, D))

    def plain(x, fill):
        kept = jnp.take_along_axis(x, mask.keep_ids[:, :, None], axis=1) ** 2
        both = jnp.concatenate([kept, jnp.broadcast_to(fill, (B, N - K, D))], axis=1)
        return (weight * jnp.take_along_axis(both, mask.restore_ids[:, :, None], axis=1)).sum()

    ours = jax.grad(lambda x, fill: (weight * restore(take(x, mask) ** 2, mask, fill)).sum(), (0, 1))(x, fill)
    for a, b in zip(ours, jax.grad(plain, (0, 1))(x, fill)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_no_scatter_and_no_collective(case):
    mask, x, fill = case
    sharding = batch_sharding(make_mesh())

    def loss(x, scores):
        mask = select(scores, K)
        return (restore(jnp.sin(take(x, mask)), mask, fill) ** 2).sum(axis=(1, 2))

    step = jax.jit(
        lambda x, scores: jax.vjp(lambda x: loss(x, scores), x)[1](jnp.ones(B)),
        in_shardings=(sharding, sharding), out_shardings=(sharding,),
    )  # fmt: skip
    text = step.lower(x, jnp.zeros((B, N))).compile().as_text()
    assert not re.search(r"all-gather|all-reduce|all-to-all|collective-permute", text)
    assert " scatter(" not in text
