"""Batch norm against its closed form, and what it must survive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.mesh import batch_sharding, make_mesh
from mae_jax.nets.layers import BatchNorm, apply_stats

X = np.random.default_rng(0).normal(3.0, 2.0, (16, 5, 4)).astype(np.float32)
NORM = BatchNorm(eps=1e-5, momentum=0.1)
PARAMS = {"scale": jnp.array([1.0, 2.0, 0.5, -1.0]), "bias": jnp.array([0.0, 1.0, -1.0, 3.0])}
STATS = {"mean": jnp.array([0.5, 0.0, 1.0, 2.0]), "var": jnp.array([1.0, 2.0, 0.5, 4.0])}


def expected(x, rows):
    """(output, running mean, running variance) in float64: biased variance to normalise, unbiased to keep (torch)."""
    x, rows = x.astype(np.float64), rows.reshape(-1, 4).astype(np.float64)
    mean, var = rows.mean(0), rows.var(0)
    y = (x - mean) / np.sqrt(var + 1e-5) * np.asarray(PARAMS["scale"]) + np.asarray(PARAMS["bias"])
    kept = [0.9 * np.asarray(STATS[k]) + 0.1 * new for k, new in (("mean", mean), ("var", rows.var(0, ddof=1)))]
    return y, *kept


def test_training_statistics_and_running_ones():
    y, stats = apply_stats(NORM, PARAMS, STATS, jnp.asarray(X), train=True)
    for found, wanted in zip((y, stats["mean"], stats["var"]), expected(X, X), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_only_valid_positions_count():
    valid = np.random.default_rng(1).random((16, 5)) < 0.4
    y, stats = apply_stats(NORM, PARAMS, STATS, jnp.asarray(X), jnp.asarray(valid), train=True)
    for found, wanted in zip((y, stats["mean"], stats["var"]), expected(X, X[valid]), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_valid_is_no_nan(count):
    """Linen's gives NaN here; the running statistics stay where nothing was seen."""
    valid = jnp.zeros((16, 5), bool).at[0, :count].set(True)
    y, stats = apply_stats(NORM, PARAMS, STATS, jnp.asarray(X), valid, train=True)
    assert jnp.isfinite(y).all() and all(jnp.isfinite(s).all() for s in stats.values())
    if count == 0:
        jax.tree.map(np.testing.assert_array_equal, stats, STATS)
    grad = jax.grad(lambda x: apply_stats(NORM, PARAMS, STATS, x, valid, train=True)[0].sum())(jnp.asarray(X))
    assert jnp.isfinite(grad).all()


def test_evaluation_uses_and_keeps_the_running_statistics():
    y, stats = apply_stats(NORM, PARAMS, STATS, jnp.asarray(X), train=False)
    mean, var, scale, bias = (np.asarray(v) for v in (*STATS.values(), *PARAMS.values()))
    wanted = (X - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, STATS)


def test_statistics_are_those_of_the_global_batch():
    mesh = make_mesh()
    sharded = jax.device_put(jnp.asarray(X), batch_sharding(mesh))
    one = apply_stats(NORM, PARAMS, STATS, jnp.asarray(X), train=True)
    eight = jax.jit(lambda x: apply_stats(NORM, PARAMS, STATS, x, train=True))(sharded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), eight, one)


def test_init_leaves_the_statistics_at_zero_and_one():
    found = NORM.init(jax.random.key(0), jnp.asarray(X), train=True)["stats"]
    np.testing.assert_array_equal(found["mean"], 0)
    np.testing.assert_array_equal(found["var"], 1)
