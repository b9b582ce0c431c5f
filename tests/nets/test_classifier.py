"""The classifier's poolings and the batch norm before its head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.nets.block import Transformer
from mae_jax.nets.vit import AttentivePool, Classifier

SHAPE = Transformer(8, 1, 2, qkv_bias="qv", layer_scale=0.1)
IMAGE = jax.random.normal(jax.random.key(0), (6, 8, 8, 3))


def build(**options):
    net = Classifier(SHAPE, classes=3, size=(8, 8), patch=(4, 4), head_std=0.5, **options)
    variables = net.init(jax.random.key(1), IMAGE)
    return net, variables


def test_attentive_pool_is_attention_of_one_query():
    tokens = jax.random.normal(jax.random.key(2), (2, 5, 8))
    pool = AttentivePool(SHAPE)
    p = pool.init(jax.random.key(3), tokens)["params"]
    p = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), p)
    found = pool.apply({"params": p}, tokens)

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * np.asarray(p[name]["scale"]) + np.asarray(p[name]["bias"])

    x, w = np.asarray(tokens), jax.tree.map(np.asarray, p["attn"])
    q = norm(np.asarray(p["class_token"])[0], "norm_q") @ w["q"]["kernel"] + w["q"]["bias"]
    k, v = norm(x, "norm_k") @ w["k"]["kernel"], norm(x, "norm_v") @ w["v"]["kernel"] + w["v"]["bias"]
    heads = []
    for i in (slice(0, 4), slice(4, 8)):
        logits = np.exp((k[:, :, i] @ q[0, i]) / 2)
        heads.append(np.einsum("bn,bnc->bc", logits / logits.sum(1, keepdims=True), v[:, :, i]))
    expected = np.concatenate(heads, -1) @ w["proj"]["kernel"] + w["proj"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool, normed", [("mean", False), ("class", True), ("raw_class", False), ("attentive", True)])
def test_only_what_is_read_exists(pool, normed):
    net, variables = build(pool=pool, positions="sincos", first="row")
    params = variables["params"]
    assert ("norm" in params["encoder"]) == normed and ("fc_norm" in params) == (pool == "mean")
    assert ("attend" in params) == (pool == "attentive") and "pos_embed" not in params["encoder"]
    logits, pooled = net.apply(variables, IMAGE)
    head = params["head"]
    np.testing.assert_allclose(logits, pooled @ head["kernel"] + head["bias"][None], rtol=1e-4, atol=1e-6)


def test_batch_norm_before_the_head_has_no_parameters():
    net, variables = build(pool="class", feature_norm=1e-6)
    assert "feature_norm" not in variables["params"] and set(variables["stats"]) == {"feature_norm"}
    (logits, pooled), new = net.apply(variables, IMAGE, train=True, mutable=["stats"])
    read = (pooled - pooled.mean(0, keepdims=True)) / jnp.sqrt(pooled.var(0, keepdims=True) + 1e-6)
    np.testing.assert_allclose(logits, read @ variables["params"]["head"]["kernel"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(new["stats"]["feature_norm"]["mean"], 0.1 * pooled.mean(0), rtol=1e-4)
