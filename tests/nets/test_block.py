"""The stack: scanned, unrolled and rematerialised are one function; norms and drop path against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.nets.attention import Attention, CrossAttention, attend
from mae_jax.nets.block import Stack, Transformer, drop_path
from mae_jax.nets.compute import Compute
from mae_jax.nets.layers import LayerNorm

X = jax.random.normal(jax.random.key(1), (3, 7, 16))
SHAPE = Transformer(dim=16, depth=3, heads=4)
NET = Stack(SHAPE)


@pytest.fixture(scope="module")
def params():
    params = NET.init(jax.random.key(0), X)["params"]
    return jax.tree.map(lambda p: p + 0.05 * jax.random.normal(jax.random.key(p.size), p.shape), params)


def value_and_grad(compute, params, drop=None):
    net = Stack(dataclasses.replace(SHAPE, compute=compute))
    return jax.jit(jax.value_and_grad(lambda p: (net.apply({"params": p}, X, None, drop)[0] ** 2).mean()))(params)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["none", "dots", "full", "offload"])
@pytest.mark.parametrize("dropped", [False, True])
def test_scan_and_remat_change_nothing(params, scan, remat, dropped):
    drop = drop_path(jax.random.uniform(jax.random.key(5), (3, 3, 2)), 0.6) if dropped else None
    reference = value_and_grad(Compute(), params, drop)
    found = value_and_grad(Compute(scan=scan, remat=remat), params, drop)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, reference)
    assert set(tree.flatten(params)) == set(tree.flatten(found[1]))


@pytest.mark.parametrize("scan", [False, True])
def test_offload_keeps_products_in_the_hosts_memory(params, scan):
    """Guards the test above: on a CPU both memories are one."""

    def program(remat):
        net = Stack(dataclasses.replace(SHAPE, compute=Compute(scan=scan, remat=remat)))
        return str(jax.make_jaxpr(jax.grad(lambda p: net.apply({"params": p}, X)[0].sum()))(params))

    assert "host" in program("offload") and "host" not in program("dots")


def test_the_order_of_layers_matters(params):
    """Guards the test above: a stack that ran its layers in another order would differ."""
    swapped = params | {"0": params["2"], "2": params["0"]}
    assert abs(value_and_grad(Compute(), params)[0] - value_and_grad(Compute(), swapped)[0]) > 1e-4


def test_tokens_that_are_not_valid_are_not_seen(params):
    valid = jnp.array([[True] * 5 + [False] * 2] * 3)
    other = X.at[:, 5:].set(99.0)
    a, b = (NET.apply({"params": params}, x, valid)[0][:, :5] for x in (X, other))
    np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(a, NET.apply({"params": params}, X[:, :5])[0], atol=1e-5)


def test_layer_norm_survives_a_large_mean():
    """Linen's fast variance is off by 5e-2 at mean/std 300 (traps.md); ours is two-pass."""
    x = np.random.default_rng(0).normal(300.0, 1.0, (4, 256)).astype(np.float32)
    given = jnp.asarray(x)
    exact = (x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)) / x.std(
        -1, keepdims=True, dtype=np.float64
    )
    norm = LayerNorm()
    np.testing.assert_allclose(norm.apply(norm.init(jax.random.key(0), given), given), exact, atol=1e-3)


def test_attention_against_float64():
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 4, 5, 8))
    logits = q @ k.swapaxes(-1, -2) * 0.3
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(attend(*(jnp.asarray(a) for a in (q, k, v)), 0.3), weights @ v, atol=1e-5)


def test_drop_path_keeps_the_mean_and_grows_with_depth():
    drop = drop_path(jax.random.uniform(jax.random.key(0), (20000, 4, 2)), 0.3)
    np.testing.assert_allclose(drop.mean(axis=(0, 2)), 1, atol=0.02)
    np.testing.assert_allclose((drop == 0).mean(axis=(0, 2)), [0, 0.1, 0.2, 0.3], atol=0.01)


@pytest.mark.parametrize("scan", [False, True])
def test_every_block_s_output_is_given(params, scan):
    compute = Compute(scan=scan)
    last, hidden = Stack(dataclasses.replace(SHAPE, compute=compute)).apply({"params": params}, X)
    assert len(hidden) == 3
    np.testing.assert_array_equal(hidden[-1], last)
    first, _ = Stack(dataclasses.replace(SHAPE, depth=1)).apply({"params": {"0": params["0"]}}, X)
    np.testing.assert_allclose(hidden[0], first, atol=1e-6)


def test_layer_scale_multiplies_both_branches(params):
    scaled = dataclasses.replace(SHAPE, depth=1, layer_scale=0.5)
    own = Stack(scaled).init(jax.random.key(0), X)["params"]["0"]
    assert (own["scale1"]["gamma"] == 0.5).all() and own["scale2"]["gamma"].shape == (16,)
    nothing = params["0"] | {name: {"gamma": jnp.zeros(16)} for name in ("scale1", "scale2")}
    np.testing.assert_array_equal(Stack(scaled).apply({"params": {"0": nothing}}, X)[0], X)
    one = params["0"] | {name: {"gamma": jnp.ones(16)} for name in ("scale1", "scale2")}
    plain = Stack(dataclasses.replace(SHAPE, depth=1)).apply({"params": {"0": params["0"]}}, X)[0]
    np.testing.assert_allclose(Stack(scaled).apply({"params": {"0": one}}, X)[0], plain, atol=1e-6)


def test_a_bias_of_minus_infinity_hides_a_key(params):
    bias = jnp.zeros((1, 1, 7, 7)).at[..., 5:].set(-1e30)
    valid = jnp.array([[True] * 5 + [False] * 2] * 3)
    biased, masked = (NET.apply({"params": params}, X, **k)[0] for k in ({"bias": bias}, {"valid": valid}))
    np.testing.assert_allclose(biased[:, :5], masked[:, :5], atol=1e-5)


@pytest.mark.parametrize("qkv_bias", [True, False, "qv"])
def test_cross_attention_to_itself_is_self_attention(qkv_bias):
    own, cross = Attention(4, qkv_bias), CrossAttention(4, qkv_bias)
    params = own.init(jax.random.key(0), X)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    parts = {name: {"kernel": kernel} for name, kernel in zip("qkv", jnp.split(params["qkv"]["kernel"], 3, -1))}
    if qkv_bias is True:
        for name, bias in zip("qkv", jnp.split(params["qkv"]["bias"], 3)):
            parts[name]["bias"] = bias
    if qkv_bias == "qv":
        parts["q"]["bias"], parts["v"]["bias"] = params["q_bias"], params["v_bias"]
    found = cross.apply({"params": parts | {"proj": params["proj"]}}, X, X)
    np.testing.assert_allclose(found, own.apply({"params": params}, X), atol=1e-5)


def test_heads_need_not_divide_the_width():
    """12 heads of 85 = 1020 inside 1024 (CAE-L's decoder), in small."""
    params = Attention(5).init(jax.random.key(0), X)["params"]
    assert params["qkv"]["kernel"].shape == (16, 45) and params["proj"]["kernel"].shape == (15, 16)
