"""Masking by weights: the law of the draw."""

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.keys import Context
from mae_jax.masking.scores import weighted
from mae_jax.masking.select import select


def drawn(weights, draws=20_000, keep=1):
    scores = weighted(Context(jax.random.key(0)), jnp.broadcast_to(jnp.asarray(weights)[None], (draws, len(weights))))
    return np.asarray(select(scores, keep).keep_ids)


def test_the_first_draw_is_proportional_to_the_weights():
    counts = np.bincount(drawn([0.1, 0.2, 0.3, 0.4])[:, 0], minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.1, 0.2, 0.3, 0.4], atol=0.015)  # 4 standard deviations


def test_the_second_draw_is_without_replacement():
    """P(first a, then b) = p_a p_b / (1 - p_a), as torch's multinomial."""
    pairs = drawn([0.5, 0.25, 0.25], keep=2)
    share = ((pairs[:, 0] == 0) & (pairs[:, 1] == 1)).mean()
    np.testing.assert_allclose(share, 0.5 * 0.25 / 0.5, atol=0.015)


def test_equal_weights_are_random_masking():
    kept = np.bincount(drawn([0.3] * 8, keep=4).ravel(), minlength=8) / 20_000
    np.testing.assert_allclose(kept, [0.5] * 8, atol=0.015)


def test_weight_zero_comes_last():
    kept = drawn([0.0, 1e-30, 0.0, 1.0], draws=500, keep=2)
    assert (np.sort(kept, axis=1) == [1, 3]).all()
