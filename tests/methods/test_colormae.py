"""ColorMAE's invariants (papers/colormae): counts, colours along the run, where the noise comes from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax import teachers
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.colormae import ColorMAE
from mae_jax.methods.mae import MAE
from mae_jax.tokens.positions import sincos

SIZES = dict(image_size=(28, 28), patch=2, channels=1, dim=8, depth=1, heads=2, decoder_dim=8, decoder_depth=1,
             decoder_heads=2)  # fmt: skip
METHOD = ColorMAE(**SIZES, patterns=5, pattern_size=20)
B = 12


@functools.cache
def rest_of(method):
    frozen = {name: jax.tree.map(jnp.asarray, teachers.load(spec)[0]) for name, spec in method.frozen().items()}
    return {"stats": {}, "ema": {}, "frozen": frozen}


def masks(method, step=0, seed=0, jit=True):
    rest = rest_of(method)
    draw = lambda step: method.mask(rest, Context(jax.random.key(seed), step), B)
    return (jax.jit(draw) if jit else draw)(step)


@pytest.mark.parametrize("draw", ["pass", "sample", "fresh"])
@pytest.mark.parametrize("colour", ["green", "blue", "red", "purple", "white"])
def test_exactly_a_quarter_is_visible(draw, colour):
    mask = masks(dataclasses.replace(METHOD, draw=draw, colour=colour))
    hidden, ids = np.asarray(mask.hidden), np.asarray(mask.restore_ids)
    assert mask.keep_ids.shape == (B, 49) and (hidden.sum(axis=1) == 147).all()
    np.testing.assert_array_equal(np.sort(ids, axis=1), np.arange(196)[None].repeat(B, 0))


def test_images_of_equal_number_share_a_pattern_and_a_pass_its_crop():
    """With 5 patterns, image 7 has pattern 2: the same pattern as image 2's, cropped elsewhere."""
    method = dataclasses.replace(METHOD, pattern_size=14)  # room for one crop only: flips remain
    hidden = np.asarray(masks(method).hidden).reshape(B, 14, 14)
    turned = lambda h: {h[::i, ::j].tobytes() for i in (1, -1) for j in (1, -1)}
    for i in range(B - 5):
        assert hidden[i + 5].tobytes() in turned(hidden[i]) and hidden[i + 1].tobytes() not in turned(hidden[i])


def test_white_is_mae_to_the_bit():
    ours, mae = ColorMAE(**SIZES, colour="white", first="column"), MAE(**SIZES, norm_pix=True)
    batch = {"image": jax.random.normal(jax.random.key(1), (3, 28, 28, 1))}
    assert ours.frozen() == {}

    def loss(method):
        params, stats = method.init(jax.random.key(0), batch)
        rest = {"stats": stats, "ema": {}, "frozen": {}}
        return method.loss(params, rest, batch, Context(jax.random.key(2), 3))[0]

    assert jax.jit(lambda: loss(ours))() == jax.jit(lambda: loss(mae))()


@pytest.mark.parametrize("draw", ["pass", "sample", "fresh"])
def test_the_schedule_changes_colour_and_compiles_once(draw):
    method = dataclasses.replace(METHOD, draw=draw, colour="green", schedule=((3, "red"), (6, "green"), (8, "white")))
    assert method.palette == ("green", "red", "white")
    rest, traces = rest_of(method), 0

    @jax.jit
    def hidden(step):
        nonlocal traces
        traces += 1
        return method.mask(rest, Context(jax.random.key(0), step), B).hidden

    for step, colour in ((0, "green"), (2, "green"), (3, "red"), (5, "red"), (6, "green"), (7, "green")):
        alone = dataclasses.replace(method, colour=colour, schedule=())
        np.testing.assert_array_equal(hidden(step), masks(alone, step).hidden, err_msg=f"{step} {colour}")
    assert not np.array_equal(hidden(8), masks(dataclasses.replace(METHOD, draw=draw), 8).hidden)
    assert traces == 1


def test_a_published_file_is_the_bank(tmp_path):
    patterns = np.random.default_rng(0).random((5, 20, 20))
    np.savez(tmp_path / "green_noise_data_5.npz", patterns, np.zeros(2))
    method = dataclasses.replace(METHOD, bank=str(tmp_path / "{colour}_noise_data_5.npz"))
    np.testing.assert_allclose(rest_of(method)["frozen"]["green"]["patterns"], patterns, rtol=1e-6)
    other = dataclasses.replace(method, patterns=4)
    with pytest.raises(UserError, match=r"Set method.patterns=5 and method.pattern_size=\(20, 20\)"):
        rest_of(other)


def test_generated_banks_have_a_hash_of_their_recipe():
    spec = METHOD.frozen()["green"]
    assert teachers.load(spec)[1] == teachers.load(spec)[1] == spec.network.recipe
    shapes = teachers.shapes(spec)
    assert shapes["patterns"].shape == (5, 20, 20) and spec.file == "generated"


def test_both_tables_have_the_row_first():
    """mmpretrain's: of a 14 x 14 grid tokens 0..13 lie in one row, and share the first half of their channels."""
    assert METHOD.encoder.first == METHOD.net.decoder.first == "row"
    row_first, column_first = (sincos(8, (14, 14), first=f) for f in ("row", "column"))
    assert (row_first[:14, :4] == row_first[0, :4]).all() and not (column_first[:14, :4] == column_first[0, :4]).all()
    batch = {"image": jax.random.normal(jax.random.key(1), (2, 28, 28, 1))}
    params, _ = METHOD.init(jax.random.key(0), batch)
    rest = rest_of(METHOD) | {"stats": {}}
    loss = lambda method: method.loss(params, rest, batch, Context(jax.random.key(2), 3))[0]
    both = jax.jit(lambda: (loss(METHOD), loss(dataclasses.replace(METHOD, first="column"))))()
    assert both[0] != both[1]


@pytest.mark.parametrize(
    "fields, word",
    [
        (dict(pattern_size=13), "cannot hold a window"),
        (dict(schedule=((5, "red"), (5, "blue"))), "rising steps"),
        (dict(schedule=((0, "red"),)), "rising steps"),
        (dict(bank="green.npz", schedule=((5, "red"),)), "names one file"),
        (dict(blur=(2.0, 1.0)), "smaller first"),
        (dict(mask_ratio=0.0), "hides none"),
    ],
)
def test_fields_that_do_not_fit(fields, word):
    with pytest.raises(UserError, match=word):
        dataclasses.replace(METHOD, **fields).check()
