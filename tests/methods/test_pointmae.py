"""Point-MAE's own invariants (papers/pointmae)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.masking.select import from_ids, nothing_hidden
from mae_jax.methods.pointmae import PointMAE
from mae_jax.nets.layers import apply
from mae_jax.train.build import sample_batch
from mae_jax.transfer.finetune import FineTune

METHOD = PointMAE(points=48, groups=8, group_points=6, dim=12, depth=1, heads=2, decoder_depth=1, decoder_heads=3)
KEY = jax.random.key(0)


def clusters(inner=0.97):
    """Eight clusters far apart, six points each: the outermost is the centre, `inner` says where the others are."""
    places = 3 * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    noise = 0.01 * np.random.default_rng(0).standard_normal((8, 5, 3))
    points = [np.concatenate([p[None], inner * p + n]) for p, n in zip(places, noise)]
    return jnp.asarray(np.concatenate(points)[None], jnp.float32)


@jax.jit
def run(params, stats, points, noise):
    rest = {"stats": stats, "ema": {}, "frozen": {}}
    ctx = Context(KEY, train=False, given={"mask": noise})
    return METHOD.loss(params, rest, {"points": points}, ctx)


@pytest.fixture(scope="module")
def weights():
    params, stats = jax.jit(METHOD.init)(KEY, sample_batch(METHOD))
    return jax.tree.map(lambda p: p + 0.05 * jax.random.normal(jax.random.key(p.size), p.shape), params), stats


def test_sizes_of_the_published_models():
    """Sheet, in millions: the whole, encoder side, tokenizer, positions, decoder, and the 40-class classifier."""
    method = PointMAE()
    params, _ = jax.eval_shape(method.init, KEY, sample_batch(method))
    millions = lambda x: tree.size(x) / 1e6
    place, decoder = params["encoder"]["place"], params["decoder"]
    assert abs(millions(params) - 29.0) < 0.05
    assert abs(millions(params["encoder"]) + millions(params["tokenizer"]) - 21.83) < 0.01
    assert abs(millions(params["tokenizer"]) - 0.494) < 0.001 and abs(millions(place) - 0.050) < 0.001
    assert abs(millions({k: decoder[k] for k in ("blocks", "norm")}) - 7.09) < 0.01
    classifier = FineTune(inner=dataclasses.replace(method, class_token=True), classes=40, pool="class_max",
                          head_kind="mlp3")  # fmt: skip
    params, _ = jax.eval_shape(classifier.init, KEY, sample_batch(classifier))
    assert abs(millions(params) - 22.1) < 0.05


def test_counts_are_truncated_where_groups_are_hidden(weights):
    hidden = np.asarray(run(*weights, clusters(), jnp.zeros((1, 8)))[1].seen["hidden"])
    assert hidden.sum() == int(0.6 * 8) == 4
    assert PointMAE().cost().visible == 64 - 38  # MAE's rule would leave 25
    with pytest.raises(UserError, match="mask_ratio=0.1 hides 0 of 8"):
        dataclasses.replace(METHOD, mask_ratio=0.1).check()
    with pytest.raises(UserError, match="method.groups=64"):
        dataclasses.replace(METHOD, groups=64).check()


def test_hidden_points_do_not_reach_the_visible_latents(weights):
    noise = jax.random.uniform(jax.random.key(3), (1, 8))
    before = run(*weights, clusters(), noise)[1].seen
    np.testing.assert_array_equal(before["groups"][0, :, 0], np.zeros((8, 3)))
    near, far = clusters().reshape(8, 6, 3), clusters(0.9).reshape(8, 6, 3)
    place = np.asarray(before["centres"][0])
    hidden = np.array([np.asarray(before["hidden"][0])[np.abs(place - c[0]).sum(1).argmin()] for c in np.asarray(near)])
    after = run(*weights, jnp.where(hidden[:, None, None], far, near).reshape(1, 48, 3), noise)[1].seen
    np.testing.assert_array_equal(after["centres"], before["centres"])
    np.testing.assert_allclose(after["latent"], before["latent"], atol=1e-6)
    assert not np.allclose(after["target"], before["target"], atol=1e-2)
    seen = run(*weights, jnp.where(hidden[:, None, None], near, far).reshape(1, 48, 3), noise)[1].seen
    assert not np.allclose(seen["latent"], before["latent"], atol=1e-3)


def test_tokens_do_not_see_the_order_of_a_groups_points(weights):
    params, stats = weights
    groups = jax.random.normal(KEY, (2, 3, 6, 3))
    tokens = lambda x: METHOD.tokenizer.apply({"params": params["tokenizer"], "stats": stats["tokenizer"]}, x)
    np.testing.assert_allclose(tokens(groups[:, :, ::-1]), tokens(groups), atol=1e-6)
    assert not np.allclose(tokens(groups[:, ::-1]), tokens(groups))


def test_predictions_move_with_their_groups(weights):
    params, _ = weights
    latent, centres = jax.random.normal(KEY, (1, 3, 12)), jax.random.normal(jax.random.key(1), (1, 8, 3))
    keep, drop = jnp.array([[0, 3, 5]]), np.array([[1, 2, 4, 6, 7]])
    order = np.array([3, 0, 4, 2, 1])
    pred = lambda drop: apply(METHOD.decoder, params["decoder"], latent, centres, from_ids(keep, jnp.asarray(drop)))[0]
    np.testing.assert_allclose(pred(drop[:, order]), pred(drop)[:, order], atol=1e-6)


def test_the_encoder_under_an_empty_mask_is_encode(weights):
    params, stats = weights
    features = jax.jit(METHOD.encode)(params, {"stats": stats}, {"points": clusters()})
    seen = run(params, stats, clusters(), jnp.zeros((1, 8)))[1].seen
    same = apply(METHOD.encoder, params["encoder"], seen["tokens"], seen["centres"], nothing_hidden(1, 8))
    np.testing.assert_allclose(features.normed, same.normed, atol=1e-6)
    np.testing.assert_allclose(features.parts["normed0"], features.normed, atol=1e-6)
    assert features.prefix.shape == (1, 0, 12)


def test_positions_are_added_before_every_block(weights):
    """With blocks that do nothing, the stream is the token and `depth` times its position."""
    params, stats = weights
    twice = dataclasses.replace(METHOD, depth=2)
    both = params["encoder"]["blocks"] | {"1": params["encoder"]["blocks"]["0"]}
    still = tree.map_with_path(
        lambda path, x: jnp.zeros_like(x) if "/proj/" in path or "/fc2/" in path and "blocks" in path else x,
        params["encoder"] | {"blocks": both},
    )
    seen = run(params, stats, clusters(), jnp.zeros((1, 8)))[1].seen
    features = apply(twice.encoder, still, seen["tokens"], seen["centres"])
    hidden = jax.nn.gelu(seen["centres"] @ still["place"]["fc1"]["kernel"] + still["place"]["fc1"]["bias"][None, None],
                         approximate=False)  # fmt: skip
    place = hidden @ still["place"]["fc2"]["kernel"] + still["place"]["fc2"]["bias"][None, None]
    np.testing.assert_allclose(features.tokens, seen["tokens"] + 2 * place, atol=1e-5)
