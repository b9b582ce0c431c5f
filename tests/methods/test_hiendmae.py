"""Hi-End-MAE's own invariants (papers/hiendmae)."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.hiendmae import HiEndMAE
from mae_jax.nets.layers import apply
from mae_jax.tokens.grid import patchify, unpatchify
from mae_jax.tokens.positions import sincos
from mae_jax.train.build import sample_batch

REST = {"stats": {}, "ema": {}, "frozen": {}}
METHOD = HiEndMAE(
    volume_size=(8, 8, 12), patch=4, dim=24, depth=4, heads=2, memory=(0, 2), decoder_dim=12, decoder_depth=1,
    decoder_heads=2,
)  # fmt: skip
VOLUME = jax.random.uniform(jax.random.key(7), (3, 8, 8, 12, 1))
NOISE = jax.random.uniform(jax.random.key(8), (3, 12))


@jax.jit
def run(params, volume=VOLUME, noise=NOISE):
    return METHOD.loss(params, REST, {"volume": volume}, Context(jax.random.key(0), given={"mask": noise}))


@pytest.fixture(scope="module")
def params():
    return jax.jit(METHOD.init)(jax.random.key(0), {"volume": VOLUME})[0]


def changed(params, path, value):
    """`params` with the arrays below `path` multiplied by `value`."""
    return tree.map_with_path(lambda p, x: x * value if p.startswith(path) else x, params)


def test_sizes_of_the_published_models():
    """Sheet, in millions: encoder, decoder, bridges."""
    for fields, encoder, decoder, bridges in (
        (dict(patch=16, dim=768, heads=12, decoder_dim=384, decoder_heads=12), 88.2, 12.2, 1.2),
        (dict(patch=16), 346, 22.3, 3.2),
        (dict(), 343, 21.0, 3.2),
    ):
        method = HiEndMAE(**fields)
        shapes, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
        between = {n: s for n, s in shapes["decoder"].items() if n.startswith("bridge_")}
        assert abs(tree.size(shapes["encoder"]) / 1e6 / encoder - 1) < 0.002
        assert abs(tree.size(between) / 1e6 - bridges) < 0.05 and len(between) == 4
        assert abs((tree.size(shapes["decoder"]) - tree.size(between)) / 1e6 - decoder) < 0.05


def test_hidden_voxels_do_not_reach_encoder_or_decoder(params):
    _, aux = run(params)
    tokens = patchify(VOLUME, (4, 4, 4))
    hidden = aux.seen["hidden"][:, :, None]
    other = run(params, unpatchify(jnp.where(hidden, 9.0, tokens), METHOD.grid, (4, 4, 4)))[1]
    for name in ("latent", "pred", "hidden0", "memory2"):
        np.testing.assert_array_equal(other.seen[name], aux.seen[name])
    seen = run(params, unpatchify(jnp.where(hidden, tokens, 9.0), METHOD.grid, (4, 4, 4)))[1]
    assert not np.allclose(seen.seen["pred"], aux.seen["pred"])


def test_tokens_stay_shuffled_and_ids_are_a_permutation(params):
    loss, aux = run(params)
    ids = np.asarray(aux.seen["ids"])
    np.testing.assert_array_equal(ids, np.argsort(NOISE, axis=1))
    target = np.take_along_axis(np.asarray(patchify(VOLUME, (4, 4, 4))), ids[:, 3:, None], axis=1)
    centred = target - target.mean(-1, keepdims=True)
    target = centred / np.sqrt(target.var(-1, keepdims=True) + 1e-6)  # biased, where MAE's is not
    np.testing.assert_allclose(loss, np.square(aux.seen["pred"][:, 4:] - target).mean(), rtol=1e-5)


def test_loss_does_not_depend_on_the_order_of_visible_tokens(params):
    order = np.argsort(NOISE, axis=1)
    noise = np.asarray(NOISE).copy()
    for row, ids in enumerate(order):
        noise[row, ids[:3]] = noise[row, ids[:3]][::-1]
    np.testing.assert_allclose(run(params, noise=jnp.asarray(noise))[0], run(params)[0], rtol=1e-5)


def test_predicting_nothing_costs_the_variance_of_the_target(params):
    var = np.asarray(patchify(VOLUME, (4, 4, 4))).var(-1)
    hidden = np.asarray(run(params)[1].seen["hidden"])
    loss = run(changed(params, "decoder/pred", 0.0))[0]
    np.testing.assert_allclose(loss, (var / (var + 1e-6))[hidden].mean(), rtol=1e-5)


def test_gradients_reach_the_chosen_blocks_without_the_last_bridge(params):
    cut = changed(params, "decoder/bridge_2", 0.0)
    grads = tree.flatten(jax.grad(lambda p: run(p)[0])(cut))
    reached = {i for i in range(4) if np.abs(grads[f"encoder/blocks/{i}/mlp/fc2/kernel"]).max() > 0}
    assert reached == {0, 1, 2} and np.abs(grads["encoder/norm/scale"]).max() == 0
    only_first = changed(cut, "decoder/bridge_1", 0.0)
    grads = tree.flatten(jax.grad(lambda p: run(p)[0])(only_first))
    assert np.abs(grads["encoder/blocks/0/mlp/fc2/kernel"]).max() > 0
    assert np.abs(grads["encoder/blocks/1/mlp/fc2/kernel"]).max() == 0


def test_positions_are_added_to_all_queries_but_the_class_token(params):
    _, aux = run(params)
    bridge, latent = params["decoder"]["bridge_2"], aux.seen["latent"]
    plain = jnp.concatenate(
        [
            latent @ bridge["kernel"] + bridge["bias"][None, None],
            jnp.broadcast_to(params["decoder"]["mask_token"], (3, 9, 12)),
        ],
        axis=1,
    )
    added = np.asarray(aux.seen["queries"] - plain)
    np.testing.assert_allclose(added[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(added[:, 1:], sincos(12, METHOD.grid, first="row")[aux.seen["ids"]], atol=1e-5)


def test_memories_have_neither_norm_nor_positions(params):
    _, aux = run(params)
    bridge = params["decoder"]["bridge_1"]
    expected = aux.seen["hidden2"] @ bridge["kernel"] + bridge["bias"][None, None]
    np.testing.assert_allclose(aux.seen["memory2"], expected, atol=1e-5)


def test_encode_takes_other_sizes_and_learned_positions(params):
    wide = {"volume": jnp.zeros((1, 4, 12, 8, 1))}
    assert METHOD.encode(params, REST, wide).grid == (1, 3, 2)
    learned = dataclasses.replace(METHOD, positions="learned")
    own, _ = jax.jit(learned.init)(jax.random.key(0), {"volume": VOLUME})
    assert own["encoder"]["pos_embed"].shape == (1, 12, 24)  # no row for the class token
    features = apply(learned.encoder, own["encoder"], wide["volume"])
    assert features.tokens.shape == (1, 6, 24) and features.prefix.shape == (1, 1, 24) and len(features.hidden) == 4


def test_a_perfect_prediction_paints_the_original(params):
    _, aux = run(params)
    target = jnp.zeros_like(aux.seen["pred"]).at[:, 4:].set(aux.seen["target"])
    drawn = METHOD.pictures(dict(aux.seen) | {"pred": target}, {"volume": VOLUME})
    assert drawn["original"].shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(drawn["original"], VOLUME[:, :, :, 6])
    np.testing.assert_allclose(drawn["pasted"], drawn["original"], atol=1e-5)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(patch=5), "does not divide"),
        (dict(mask_ratio=0.0), "hides none"),
        (dict(memory=(2, 0)), "from shallow to deep"),
        (dict(memory=(4,)), "numbers from 0 to 3"),
        (dict(memory=()), "at least one"),
        (dict(dim=20), "method.dim=20"),
        (dict(decoder_heads=5), "method.decoder_heads=5"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(METHOD, **fields).check()
