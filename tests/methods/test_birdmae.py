"""Bird-MAE's and Audio-MAE's own invariants (papers/birdmae)."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.masking import scores
from mae_jax.masking.select import select
from mae_jax.methods.birdmae import BirdMAE
from mae_jax.testing.flops import dot_flops
from mae_jax.tokens.grid import (
    overlapped_shape,
    patchify,
    patchify_overlapped,
    unpatchify,
    unpatchify_overlapped,
)
from mae_jax.tokens.positions import sincos

METHOD = BirdMAE(
    spectrogram_size=(32, 16), patch=4, dim=8, depth=1, heads=2, decoder_dim=8, decoder_depth=2, decoder_heads=2,
    decoder_blocks="window", mask_ratio=0.75,
)  # fmt: skip
REST = {"stats": {}, "ema": {}, "frozen": {}}
SOUND = jax.random.normal(jax.random.key(5), (3, 32, 16, 1))


@pytest.fixture(scope="module")
def params():
    return jax.jit(METHOD.init)(jax.random.key(0), {"spectrogram": SOUND})[0]


@jax.jit
def loss(params, sound):
    return METHOD.loss(params, REST, {"spectrogram": sound}, Context(jax.random.key(3)))


def test_what_is_hidden_does_not_reach_the_encoder(params):
    seen = loss(params, SOUND)[1].seen
    tokens, hidden = patchify(SOUND, (4, 4)), seen["hidden"][:, :, None]
    other = loss(params, unpatchify(jnp.where(hidden, 9.0, tokens), (8, 4), (4, 4)))[1].seen
    np.testing.assert_array_equal(other["latent"], seen["latent"])
    other = loss(params, unpatchify(jnp.where(hidden, tokens, 9.0), (8, 4), (4, 4)))[1].seen
    assert not np.allclose(other["latent"], seen["latent"]) and (~seen["hidden"]).sum(axis=1).tolist() == [8] * 3


@pytest.mark.parametrize("keep", [(3, 2), (7, 1), (1, 5)])
def test_lines_leave_a_product_of_columns_and_rows(keep):
    for order in ("raster", "drawn"):
        drawn = scores.lines(Context(jax.random.key(1)), 4, (7, 5), keep, order)
        mask = select(drawn, keep[0] * keep[1])
        for sample in ~np.asarray(mask.hidden).reshape(4, 7, 5):
            rows, columns = sample.any(axis=1), sample.any(axis=0)
            assert (sample == rows[:, None] & columns[None]).all() and (rows.sum(), columns.sum()) == keep
        ids = np.concatenate([mask.keep_ids, mask.drop_ids], axis=1)
        np.testing.assert_array_equal(np.take_along_axis(ids, np.asarray(mask.restore_ids), axis=1)[0], np.arange(35))
        raster = (np.diff(mask.keep_ids, axis=1) > 0).all()
        assert raster == (order == "raster") or keep[0] * keep[1] < 6


def test_lines_keep_floors():
    method = dataclasses.replace(METHOD, mask="lines", mask_time=0.3, mask_mel=0.3)  # 8 * 0.7 = 5.6, 4 * 0.7 = 2.8
    assert method.visible == 5 * 2 and method.cost().visible == 10


def test_fine_tuning_drops_lines_and_evaluation_none(params):
    method = dataclasses.replace(METHOD, drop_time=0.5, drop_mel=0.25)

    def encode(train):
        return method.encode(params, REST, {"spectrogram": SOUND}, ctx=Context(jax.random.key(0)), train=train)

    dropped, whole = (jax.jit(encode, static_argnums=0)(train) for train in (True, False))
    assert dropped.tokens.shape[1] == 4 * 3 and whole.tokens.shape[1] == 32 and whole.grid == (8, 4)


def test_positions_are_those_of_the_grid_with_its_axes_exchanged():
    """Token n of 8 x 4 gets the position (n // 8, n % 8), the second number first (the authors' code)."""
    table, straight = sincos(8, (8, 4), transposed=True), sincos(8, (8, 4))
    omega = 10000.0 ** (-np.arange(2) / 2)
    for n in (0, 5, 9, 31):
        expected = [f(x * omega) for x in (n % 8, n // 8) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(table[n], np.concatenate(expected), atol=1e-6)
    assert np.unique(table.round(5), axis=0).shape[0] == 32 and not np.allclose(table, straight)
    assert np.allclose(sincos(8, (5, 5), transposed=True), sincos(8, (5, 5)))
    assert METHOD.encoder.transposed and METHOD.decoder.transposed


def test_learned_positions_start_as_the_fixed_ones(params):
    method = dataclasses.replace(METHOD, learned_positions=True, decoder_learned_positions=True)
    own, _ = jax.jit(method.init)(jax.random.key(0), {"spectrogram": SOUND})
    np.testing.assert_array_equal(own["encoder"]["pos_embed"][0, 1:], sincos(8, (8, 4), transposed=True))
    assert not own["decoder"]["pos_embed"][0, 0].any() and "pos_embed" not in params["encoder"]
    for part in ("encoder", "decoder"):
        own[part] = {**params[part], "pos_embed": own[part]["pos_embed"]}
    learned = jax.jit(lambda p: method.loss(p, REST, {"spectrogram": SOUND}, Context(jax.random.key(3)))[0])(own)
    np.testing.assert_allclose(learned, loss(params, SOUND)[0], rtol=1e-6)


def test_the_cost_of_one_more_sample_is_the_formula():
    """Against the matmuls of 3 and of 6 samples: what runs once per batch falls out."""

    def counted(method, samples):
        sound = jax.ShapeDtypeStruct((samples, 32, 16, 1), jnp.float32)
        shapes, _ = jax.eval_shape(method.init, jax.random.key(0), {"spectrogram": sound})
        run = lambda p, x: method.loss(p, REST, {"spectrogram": x}, Context(jax.random.key(0)))[0]
        return dot_flops(jax.make_jaxpr(run)(shapes, sound).jaxpr)

    for method in (METHOD, dataclasses.replace(METHOD, decoder_blocks="plain", mask="lines")):
        assert 1.0 <= method.cost().forward / ((counted(method, 6) - counted(method, 3)) / 3) < 1.05


def test_patches_that_overlap():
    """Against torch's unfold; the mean of overlapping copies is the picture, 0 where no patch reaches."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 11, 9, 1)).astype(np.float32)
    assert overlapped_shape((1024, 128), (16, 16), (10, 10)) == (101, 12)  # Audio-MAE's
    tokens = patchify_overlapped(jnp.asarray(x), (4, 3), (3, 2))
    expected = torch.from_numpy(x[..., 0]).unfold(1, 4, 3).unfold(2, 3, 2).reshape(2, -1, 12)
    np.testing.assert_array_equal(tokens, expected.numpy())
    back = unpatchify_overlapped(tokens, (11, 9), (4, 3), (3, 2))
    np.testing.assert_allclose(back[:, :10], x[:, :10], atol=1e-6)
    assert not back[:, 10].any()


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(mask="lines", mask_time=0.0, mask_mel=0.0), "hide none of (8, 4)"),
        (dict(mask_ratio=0.0), "hides none of 32 patches"),
        (dict(drop_time=0.9), "leaves no visible token of 8"),
        (dict(window=(4, 3)), "method.window=(4, 3) does not divide the 4 mel rows"),
        (dict(patch=5), "does not divide"),
        (dict(stride=0), "stride of at least 1"),
        (dict(decoder_heads=3), "method.decoder_dim=8 must be a multiple"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(METHOD, **fields).check()


def test_pictures_show_low_frequencies_below():
    low = jnp.zeros((1, 32, 16, 1)).at[:, :, 0].set(1.0)  # all energy in the lowest bin
    seen = {"pred": jnp.zeros((1, 32, 16)), "hidden": jnp.zeros((1, 32), bool).at[0, 0].set(True)}
    drawn = METHOD.pictures(seen, {"spectrogram": low})
    bright = drawn["original"][0].sum(axis=-1)
    assert drawn["original"].shape == (1, 16, 32, 3) and (bright[-1] > 2).all() and (bright[:-1] < 0.1).all()
    np.testing.assert_allclose(drawn["masked"][0, -4:, :4], 0.5, atol=1e-6)  # the first patch: low and early
