"""VideoMAE's own invariants (papers/videomae)."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.masking.tube import tube_keep, tube_scores
from mae_jax.methods.videomae import VideoMAE
from mae_jax.targets import pixels
from mae_jax.tokens.grid import patchify, unpatchify
from mae_jax.train.build import sample_batch

REST = {"stats": {}, "ema": {}, "frozen": {}}
METHOD = VideoMAE(
    frames=6, image_size=(8, 12), patch=4, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=2, decoder_heads=2,
    mask_ratio=0.7,
)  # fmt: skip
VIDEO = jax.random.normal(jax.random.key(7), (3, 6, 8, 12, 3))  # 3 slots of 2 x 3 tokens, of which 2 are visible


@jax.jit
def run(params, video=VIDEO):
    return METHOD.loss(params, REST, {"video": video}, Context(jax.random.key(0)))


@pytest.fixture(scope="module")
def params():
    return jax.jit(METHOD.init)(jax.random.key(0), {"video": VIDEO})[0]


def test_sizes_of_the_published_models():
    """Sheet, in millions: encoder, the whole pretraining model."""
    for fields, encoder, whole in (
        (dict(dim=384, heads=6, decoder_dim=192, decoder_heads=3), 21.9, 24.0),
        (dict(), 86.2, 94.2),
        (dict(dim=1024, depth=24, heads=16, decoder_dim=512, decoder_depth=12, decoder_heads=8), 303.9, 343.0),
        (dict(dim=1280, depth=32, heads=16, decoder_dim=640, decoder_depth=12, decoder_heads=8), 631.6, 692.5),
    ):
        method = VideoMAE(**fields)
        assert method.counts == (1568, 160)
        sized = sizes(method)
        assert abs(sized["encoder"] - encoder) < 0.06 and abs(sized["whole"] - whole) < 0.06


def sizes(method):
    """Millions of parameters: of the encoder without its last norm, of all. Blocks are equal: one of each is traced."""
    one = dataclasses.replace(method, depth=1, decoder_depth=1)
    shapes, _ = jax.eval_shape(one.init, jax.random.key(0), sample_batch(one))
    blocks = {part: tree.size(shapes[part]["blocks"]) for part in shapes}
    encoder = tree.size(shapes["encoder"]) + (method.depth - 1) * blocks["encoder"]
    decoder = tree.size(shapes["decoder"]) + (method.decoder_depth - 1) * blocks["decoder"]
    return {"encoder": (encoder - tree.size(shapes["encoder"]["norm"])) / 1e6, "whole": (encoder + decoder) / 1e6}


def test_tubes_hide_the_same_places_at_all_times(params):
    hidden = np.asarray(run(params)[1].seen["hidden"]).reshape(3, 3, 6)
    assert (hidden == hidden[:, :1]).all() and (hidden.sum(axis=2) == int(0.7 * 6)).all()


@pytest.mark.parametrize("kind", ["tube", "slot", "random", "frame"])
def test_kinds_of_masks(kind):
    slots, places, ratio = 8, 49, 0.55
    keep = tube_keep(kind, ratio, slots, places)
    scores = tube_scores(Context(jax.random.key(1)), kind, 200, slots, places)
    order = np.argsort(scores, axis=1, kind="stable")
    hidden = np.ones((200, slots * places), bool)
    np.put_along_axis(hidden, order[:, :keep], False, axis=1)
    hidden = hidden.reshape(200, slots, places)
    per_slot = hidden.sum(axis=2)
    if kind == "random":
        assert (per_slot.sum(axis=1) == int(ratio * slots * places)).all() and per_slot.std() > 1
    elif kind == "frame":
        assert set(np.unique(per_slot)) == {0, places} and ((per_slot > 0).sum(axis=1) == int(ratio * slots)).all()
    else:
        assert (per_slot == int(ratio * places)).all()
    same = (hidden == hidden[:, :1]).mean()
    assert same == 1 if kind == "tube" else same < 0.7
    np.testing.assert_allclose(hidden.mean(axis=0), hidden.mean(), atol=5 * 0.5 / np.sqrt(200))  # no place is favoured


def test_equal_noise_does_not_break_tubes():
    context = Context(jax.random.key(0), given={"mask": jnp.zeros((2, 5))})
    scores = np.asarray(tube_scores(context, "tube", 2, 3, 5)).reshape(2, 3, 5)
    assert (np.sort(scores, axis=2) == np.arange(5)).all() and (scores == scores[:, :1]).all()


def test_hidden_pixels_reach_neither_latent_nor_prediction(params):
    _, aux = run(params)
    tokens, hidden = patchify(VIDEO, METHOD.cut), aux.seen["hidden"][:, :, None]
    other = run(params, unpatchify(jnp.where(hidden, 9.0, tokens), METHOD.grid, METHOD.cut))[1].seen
    for name in ("latent", "pred", "hidden"):
        np.testing.assert_array_equal(other[name], aux.seen[name])
    visible = run(params, unpatchify(jnp.where(hidden, tokens, 9.0), METHOD.grid, METHOD.cut))[1].seen
    assert not np.allclose(visible["latent"], aux.seen["latent"]) and not np.allclose(visible["pred"], aux.seen["pred"])


def test_loss_is_the_mean_over_hidden_tokens_and_their_order_is_ascending(params):
    loss, aux = run(params)
    hidden = np.asarray(aux.seen["hidden"])
    unit = jnp.asarray(np.asarray(VIDEO) * METHOD.std + METHOD.mean, jnp.float32)
    tokens = np.asarray(patchify(unit, METHOD.cut)).reshape(3, 18, 32, 3)
    target = (tokens - tokens.mean(2, keepdims=True)) / (tokens.std(2, ddof=1, keepdims=True) + 1e-6)
    target = np.stack([target[i].reshape(18, 96)[hidden[i]] for i in range(3)])
    np.testing.assert_allclose(aux.seen["target"], target, atol=1e-5)
    np.testing.assert_allclose(loss, np.square(aux.seen["pred"] - target).mean(), rtol=1e-5)


def test_order_enters_through_positions_alone(params):
    _, aux = run(params)
    latent, m = aux.seen["latent"], METHOD.mask(Context(jax.random.key(0)), 3)
    turn = jnp.array([4, 0, 5, 3, 1, 2])
    decode = jax.jit(
        lambda ids: METHOD.decoder.apply({"params": params["decoder"]}, latent[:, turn], ids, m.drop_ids, 18)
    )
    np.testing.assert_allclose(decode(m.keep_ids[:, turn]), aux.seen["pred"], atol=1e-6)
    assert not np.allclose(decode(m.keep_ids), aux.seen["pred"], atol=1e-4)


def test_targets_are_normal_and_flat_patches_give_zero_with_a_finite_gradient():
    tokens = patchify(VIDEO.at[:, :, :4, :4, 1].set(0.25), METHOD.cut)
    normal = np.asarray(pixels.normalise_channels(tokens, 3)).reshape(3, 18, 32, 3)
    flat = normal[:, [0, 6, 12], :, 1]
    np.testing.assert_allclose(flat, 0, atol=1e-6)
    np.testing.assert_allclose(normal.mean(2), 0, atol=1e-5)
    np.testing.assert_allclose(normal[:, 1:6].std(2, ddof=1), 1, atol=1e-4)
    gradient = jax.grad(lambda t: jnp.square(pixels.normalise_channels(t, 3)).sum())(tokens)
    assert np.isfinite(gradient).all()


def test_raw_pixels_lie_between_zero_and_one():
    raw = dataclasses.replace(METHOD, norm_pix=False)
    white = (jnp.ones((1, 6, 8, 12, 3)) - jnp.array(raw.mean).reshape(1, 1, 1, 1, 3)) / jnp.array(raw.std).reshape(
        1, 1, 1, 1, 3
    )
    np.testing.assert_allclose(raw.net.target(white), 1, atol=1e-6)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_paints_the_original(params, norm_pix):
    method = dataclasses.replace(METHOD, norm_pix=norm_pix)
    seen = dict(run(params)[1].seen)
    ids = method.mask(Context(jax.random.key(0)), 3).drop_ids
    seen["pred"] = jnp.take_along_axis(method.net.target(VIDEO), ids[:, :, None], axis=1)
    drawn = method.pictures(seen, {"video": VIDEO})
    assert drawn["original"].shape == (3, 8, 6 * 12, 3)
    np.testing.assert_array_equal(drawn["original"][:, :, 12:24], VIDEO[:, 1])
    np.testing.assert_allclose(drawn["pasted"], drawn["original"], atol=1e-4)
    assert not np.allclose(drawn["masked"], drawn["original"])


def test_initial_weights_are_the_authors():
    """Sheet: Xavier inside encoder and decoder; bridge and convolution as torch leaves them; the token is cut."""
    big = dataclasses.replace(METHOD, dim=64, decoder_dim=256, heads=4, decoder_heads=4)
    p = tree.flatten(jax.jit(big.init)(jax.random.key(3), {"video": VIDEO})[0])
    bound = lambda path, b: np.testing.assert_allclose(np.abs(p[path]).max(), b, rtol=0.02)
    bound("encoder/patch_embed/kernel", 96**-0.5)
    bound("decoder/embed/kernel", 64**-0.5)
    bound("encoder/blocks/0/attn/qkv/kernel", (6 / (64 + 192)) ** 0.5)
    bound("decoder/pred/kernel", (6 / (256 + 96)) ** 0.5)
    token = np.asarray(p["decoder/mask_token"])
    assert np.abs(token).max() <= 0.02 and 0.0095 < token.std() < 0.012  # 0.54 of .02: a normal cut at its deviation
    assert "decoder/embed/bias" not in p


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(patch=5), "does not divide"),
        (dict(tubelet=4), "does not divide"),
        (dict(mask_ratio=0.1), "hides 0 of 6 patches of a time slot"),
        (dict(masking="frame", mask_ratio=0.3), "hides 0 of 3 time slots"),
        (dict(heads=3), "method.dim=16"),
        (dict(decoder_heads=5), "method.decoder_heads=5"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(METHOD, **fields).check()
