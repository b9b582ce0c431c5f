"""VideoMAE V2's own invariants (papers/videomaev2)."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.masking.running_cell import cell_ids, cell_maps
from mae_jax.methods.base import config_fields
from mae_jax.methods.videomae import VideoMAE
from mae_jax.methods.videomaev2 import VideoMAEv2
from mae_jax.tokens.film import film_strip
from mae_jax.tokens.grid import patchify, unpatchify
from mae_jax.train.build import sample_batch

REST = {"stats": {}, "ema": {}, "frozen": {}}
METHOD = VideoMAEv2(
    frames=8, image_size=(8, 16), patch=4, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=2, decoder_heads=2,
    mask_ratio=0.75,
)  # fmt: skip
VIDEO = jax.random.normal(jax.random.key(7), (4, 8, 8, 16, 3))  # 4 slots of 2 x 4 tokens, of which 2 are visible


def loss(params, video=VIDEO, given=None):
    return METHOD.loss(params, REST, {"video": video}, Context(jax.random.key(0), given=given))


run = jax.jit(loss)


@pytest.fixture(scope="module")
def params():
    return jax.jit(METHOD.init)(jax.random.key(0), {"video": VIDEO})[0]


def test_sizes_of_the_published_models():
    """Sheet, in millions: encoder, the whole pretraining model; ViT-g's hidden width is 6144."""
    own = dict(decoder_dim=512, decoder_heads=8)
    for fields, encoder, whole in (
        (dict(dim=384, heads=6, decoder_dim=192, decoder_heads=3), 21.9, None),
        (dict(), 86.2, 94.2),
        (dict(dim=1024, depth=24, heads=16, **own), 303.9, 317.8),
        (dict(dim=1280, depth=32, heads=16, **own), 631.6, 645.7),
        (dict(patch=14, dim=1408, depth=40, heads=16, mlp_ratio=48 / 11, **own), 1011.6, None),
    ):
        method = VideoMAEv2(**fields)
        one = dataclasses.replace(method, depth=1, decoder_depth=1)  # blocks are equal
        shapes, _ = jax.eval_shape(one.init, jax.random.key(0), sample_batch(one))
        size = {part: tree.size(shapes[part]) for part in shapes}
        size["encoder"] += (method.depth - 1) * tree.size(shapes["encoder"]["blocks"])
        size["decoder"] += (method.decoder_depth - 1) * tree.size(shapes["decoder"]["blocks"])
        assert abs((size["encoder"] - 2 * method.dim) / 1e6 - encoder) < 0.06
        assert whole is None or abs(sum(size.values()) / 1e6 - whole) < 0.06
    assert shapes["encoder"]["blocks"]["0"]["mlp"]["fc1"]["kernel"].shape == (1408, 6144)
    assert method.counts[0] == 2048 and method.asked == 1024 and shapes["decoder"]["pred"]["bias"].shape == (1176,)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_running_cells(ratio):
    maps = cell_maps((8, 4, 6), ratio).reshape(4, 8, 4, 6)
    kept = 4 - int(4 * ratio)
    for t in range(5):  # over any four slots every position is kept equally often
        assert ((~maps[:, t : t + 4]).sum(axis=1) == kept).all()
    cells = maps.reshape(4, 8, 2, 2, 3, 2)
    assert ((~cells).sum(axis=(3, 5)) == kept).all()
    np.testing.assert_array_equal(maps[1:, :-1], maps[:-1, 1:])  # cyclic shifts of each other
    np.testing.assert_array_equal(maps[0, :-1], maps[3, 1:])


def test_every_map_is_drawn_equally_often_and_ids_ascend():
    maps = cell_maps((4, 2, 4), 0.5)
    ids = np.asarray(cell_ids(Context(jax.random.key(0)), 2000, maps))
    assert (np.diff(ids, axis=1) > 0).all()
    drawn = [np.flatnonzero([(np.flatnonzero(~m) == row).all() for m in maps])[0] for row in ids]
    counts = np.bincount(drawn, minlength=4)
    assert counts.sum() == 2000 and np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 3 / 16)


def test_without_decoder_masking_it_is_videomae_to_the_bit(params):
    plain = {name: getattr(METHOD, name) for name in config_fields(VideoMAE)}
    batch, both = {"video": VIDEO}, []
    for method in (VideoMAE(**plain), dataclasses.replace(METHOD, decoder_ratio=0.0)):
        run = jax.jit(lambda p, method=method: method.loss(p, REST, batch, Context(jax.random.key(0))))
        value, aux = run(params)
        both.append((value, aux.seen["pred"], aux.seen["latent"]))
    for a, b in zip(*both):
        np.testing.assert_array_equal(a, b)


def test_what_is_hidden_and_asked_counts(params):
    value, aux = run(params)
    hidden, ask = np.asarray(aux.seen["hidden"]), np.asarray(aux.seen["ask"])
    assert ask.shape == (4, 16) and aux.seen["pred"].shape == (4, 16, 96)
    scored = np.take_along_axis(hidden, ask, axis=1)
    np.testing.assert_array_equal(aux.seen["scored"], scored)
    error = np.square(np.asarray(aux.seen["pred"]) - np.asarray(aux.seen["target"])).mean(-1)
    np.testing.assert_allclose(value, error[scored].mean(), rtol=1e-5)
    assert aux.weight == scored.sum() < scored.size  # mask tokens stand at visible positions too


def test_pixels_that_are_not_scored_change_no_loss(params):
    """Neither those of dropped positions, nor the targets of visible ones (through which the encoder does see)."""
    value, aux = run(params, VIDEO)  # an argument, as below: of a constant the compiler folds the target
    asked = (np.asarray(aux.seen["ask"])[:, :, None] == np.arange(32)).any(axis=1)
    quiet = np.asarray(aux.seen["hidden"]) & ~asked
    assert quiet.any()
    tokens = patchify(VIDEO, METHOD.cut)
    video = unpatchify(jnp.where(quiet[:, :, None], 9.0 * tokens**2, tokens), METHOD.grid, METHOD.cut)
    np.testing.assert_array_equal(run(params, video)[0], value)
    seen = dict(aux.seen)
    error = jnp.square(seen["pred"] - (seen["target"] + 5.0 * (~seen["scored"])[:, :, None])).mean(-1)
    np.testing.assert_allclose(jnp.where(seen["scored"], error, 0).sum() / aux.weight, value, rtol=1e-6)


def test_hidden_pixels_reach_neither_latent_nor_prediction(params):
    _, aux = run(params)
    tokens, hidden = patchify(VIDEO, METHOD.cut), aux.seen["hidden"][:, :, None]
    other = run(params, unpatchify(jnp.where(hidden, 9.0, tokens), METHOD.grid, METHOD.cut))[1].seen
    for name in ("latent", "pred"):
        np.testing.assert_array_equal(other[name], aux.seen[name])
    visible = run(params, unpatchify(jnp.where(hidden, tokens, 9.0), METHOD.grid, METHOD.cut))[1].seen
    assert not np.allclose(visible["latent"], aux.seen["latent"])


def test_parts_of_unequal_count_average_to_the_whole(params):
    """The weight of a part is its number of scored tokens; a plain mean of the parts' losses is another number."""
    noise = jnp.tile(jnp.arange(8.0), (4, 1))
    # Over four slots cells ask for every place equally often, whatever is hidden: here other numbers of seen tokens.
    ask = jnp.array([[*range(16)], [*range(16)], [*range(1, 8), *range(9, 16), 30, 31], [*range(2, 8), *range(22, 32)]])
    scores = jnp.tile(noise, (1, 4))
    whole, aux = run(params, VIDEO, {"scores": scores, "ask": ask})
    parts = [run(params, VIDEO[i : i + 2], {"scores": scores[:2], "ask": ask[i : i + 2]}) for i in (0, 2)]
    weights = [float(a.weight) for _, a in parts]
    assert weights[0] != weights[1] and sum(weights) == aux.weight
    mean = sum(w * float(v) for w, (v, _) in zip(weights, parts)) / sum(weights)
    np.testing.assert_allclose(mean, whole, rtol=1e-6)
    assert abs(np.mean([float(v) for v, _ in parts]) - float(whole)) > 1e-5


def test_pictures_are_grey_where_the_decoder_was_not_asked(params):
    seen = dict(run(params)[1].seen)
    seen["pred"] = jnp.take_along_axis(METHOD.net.target(VIDEO), seen["ask"][:, :, None], axis=1)
    drawn = METHOD.pictures(seen, {"video": VIDEO})
    assert drawn["original"].shape == (4, 8, 8 * 16, 3)
    asked = (np.asarray(seen["ask"])[:, :, None] == np.arange(32)).any(axis=1)

    def strip(flags):
        tokens = jnp.broadcast_to(jnp.asarray(flags, jnp.float32)[:, :, None], (4, 32, 96))
        return np.asarray(film_strip(unpatchify(tokens, METHOD.grid, METHOD.cut)) > 0)

    known = strip(asked | ~np.asarray(seen["hidden"]))
    np.testing.assert_allclose(np.where(known, drawn["pasted"], 0), np.where(known, drawn["original"], 0), atol=1e-4)
    assert (np.asarray(drawn["pasted"])[~known] == 0).all()
    assert (np.asarray(drawn["reconstruction"])[~strip(asked)] == 0).all()


def test_cosine_attention_does_not_see_the_length_of_keys_and_is_capped():
    method = dataclasses.replace(METHOD, cosine=True)
    params = jax.jit(method.init)(jax.random.key(0), {"video": VIDEO})[0]
    value = jax.jit(lambda p: method.loss(p, REST, {"video": VIDEO}, Context(jax.random.key(0)))[0])
    scale = params["encoder"]["blocks"]["0"]["attn"]["scale"]
    np.testing.assert_allclose(scale, np.log(10.0) * np.ones(2), rtol=1e-6)

    def with_scale(factor):
        return tree.map_with_path(lambda path, x: x * 0 + factor if path.endswith("attn/scale") else x, params)

    longer = tree.map_with_path(  # queries and keys three times as long
        lambda path, x: x.at[:, : 2 * x.shape[0]].multiply(3.0) if path.endswith("qkv/kernel") else x, params
    )
    np.testing.assert_allclose(value(longer), value(params), rtol=1e-5)
    np.testing.assert_allclose(value(with_scale(4.6052)), value(with_scale(50.0)), rtol=1e-6)
    assert value(with_scale(3.0)) != value(with_scale(4.6052))


def test_random_asking_is_the_control():
    method = dataclasses.replace(METHOD, decoder_masking="random")
    context = Context(jax.random.key(0))
    ask = np.asarray(method.ask(context, method.mask(context, 4)))
    assert ask.shape == (4, method.asked) == (4, 16) and (np.diff(ask, axis=1) > 0).all()
    slots = [np.bincount(row // 8, minlength=4) for row in ask]
    assert len({tuple(s) for s in slots}) > 1  # cells ask for as many in every slot


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(image_size=(12, 16)), "both must be even"),
        (dict(decoder_ratio=0.4), "method.decoder_ratio=0.4"),
        (dict(mask_ratio=1.0), "method.mask_ratio=1.0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(METHOD, **fields).check()
