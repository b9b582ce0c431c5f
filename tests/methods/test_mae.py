"""MAE's own invariants (papers/mae) and the law of every initial tensor."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.mae import MAE

REST = {"stats": {}, "ema": {}, "frozen": {}}
IMAGE = jax.random.normal(jax.random.key(7), (4, 16, 16, 3))


def loss(method, params, image=IMAGE, **given):
    return method.loss(params, REST, {"image": image}, Context(jax.random.key(0), given=given or None))


@pytest.fixture(scope="module")
def params(tiny):
    return tiny.init(jax.random.key(0), {"image": IMAGE})[0]


# What the sheet says of every tensor: (paths, law, parameter of the law).
LAWS = [
    (r"^encoder/patch_embed/kernel$", "xavier", None),  # on the reshaped (D, 3pp) matrix
    (r"^encoder/patch_embed/bias$", "uniform", lambda shapes: (shapes["encoder/patch_embed/kernel"][0]) ** -0.5),
    (r"/(qkv|proj|fc1|fc2|embed|pred)/kernel$", "xavier", None),  # qkv: the fan of the fused matrix
    (r"/(qkv|proj|fc1|fc2|embed|pred)/bias$", "constant", 0.0),
    (r"(norm|norm1|norm2)/scale$", "constant", 1.0),
    (r"(norm|norm1|norm2)/bias$", "constant", 0.0),
    (r"(class_token|mask_token)$", "normal", 0.02),
]


def test_init_laws():
    big = MAE(image_size=32, patch=8, dim=192, depth=2, heads=4, decoder_dim=128, decoder_depth=1, decoder_heads=4)
    params = tree.flatten(jax.jit(big.init)(jax.random.key(0), {"image": jnp.zeros((1, 32, 32, 3))})[0])
    shapes = {path: p.shape for path, p in params.items()}
    laws = tree.match([(pattern, (law, value)) for pattern, law, value in LAWS], params, "init law")
    for path, p in params.items():
        law, value = laws[path]
        p = np.asarray(p)
        if law == "constant":
            assert (p == value).all(), path
        elif law == "normal":
            assert abs(p.std() / value - 1) < 0.2 and abs(p.mean()) < value / 4, path
        else:
            bound = value(shapes) if value else (6 / sum(p.shape)) ** 0.5
            assert np.abs(p).max() <= bound and np.abs(p).max() > 0.95 * bound, path
            np.testing.assert_allclose(p.std(), bound / 3**0.5, rtol=0.1, err_msg=path)


def test_parameter_counts_of_the_published_models():
    """Sheet, in millions, fixed tables included (its last digit is rounded so that the two sum to the total)."""
    for fields, encoder, decoder in (
        (dict(dim=768, depth=12, heads=12), 85.80, 26.11),
        (dict(), 303.30, 26.24),
        (dict(patch=14, dim=1280, depth=32), 630.77, 26.31),
    ):
        m = MAE(**fields)
        shapes, _ = jax.eval_shape(m.init, jax.random.key(0), {"image": jnp.zeros((1, 224, 224, 3))})
        n = int(np.prod(m.grid)) + 1
        assert abs((tree.size(shapes["encoder"]) + n * m.dim) / 1e6 - encoder) < 0.01
        assert abs((tree.size(shapes["decoder"]) + n * m.decoder_dim) / 1e6 - decoder) < 0.01


def test_step_cost_of_the_published_models():
    """guide/perf.md's table, GFLOP per image and step: S 39.0, B 58.7, L 124.5, H 291.4."""
    sizes = [
        dict(dim=384, depth=12, heads=6),
        dict(dim=768, depth=12, heads=12),
        dict(),
        dict(patch=14, dim=1280, depth=32),
    ]
    assert [round(3 * MAE(**s).cost().forward / 1e9, 1) for s in sizes] == [39.0, 58.7, 124.5, 291.4]


def test_loss_counts_hidden_tokens_only(tiny, params):
    value, aux = loss(tiny, params)
    hidden = np.asarray(aux.seen["hidden"])
    error = ((np.asarray(aux.seen["pred"]) - np.asarray(aux.seen["target"])) ** 2).mean(-1)
    np.testing.assert_allclose(value, error[hidden].mean(), rtol=1e-5)
    assert hidden.sum(axis=1).tolist() == [12] * 4


def test_encoder_is_equivariant_to_the_order_of_visible_tokens(tiny, params):
    noise = jax.random.uniform(jax.random.key(2), (4, 16))
    first = loss(tiny, params, mask=noise)
    # Rank-reverse the scores of the kept tokens: the same tokens are visible, in another order.
    order = np.argsort(np.asarray(noise), axis=1)
    swapped = np.asarray(noise).copy()
    for row, ids in enumerate(order):
        swapped[row, ids[:4]] = swapped[row, ids[:4]][::-1]
    second = loss(tiny, params, mask=jnp.asarray(swapped))
    np.testing.assert_allclose(second[0], first[0], rtol=1e-5)
    np.testing.assert_allclose(second[1].seen["latent"][:, 1:][:, ::-1], first[1].seen["latent"][:, 1:], atol=1e-5)


@pytest.mark.parametrize(
    "change", [dict(class_token=False), dict(norm_pix=False), dict(mlp_ratio=2.0), dict(mask_ratio=0.5)]
)
def test_options_change_what_they_name(tiny, change):
    m = dataclasses.replace(tiny, **change)
    params, _ = m.init(jax.random.key(0), {"image": IMAGE})
    _, aux = loss(m, params)
    k = 8 if "mask_ratio" in change else 4
    assert aux.seen["latent"].shape == (4, k + int(m.class_token), 32)
    assert ("class_token" in params["encoder"]) == m.class_token
    assert params["encoder"]["blocks"]["0"]["mlp"]["fc1"]["kernel"].shape == (32, int(32 * m.mlp_ratio))
    centred = np.abs(np.asarray(aux.seen["target"]).mean(-1)).max() < 1e-5
    assert centred == m.norm_pix


def test_encode_takes_any_size_that_the_patch_divides(tiny, params):
    features = tiny.encode(params, REST, {"image": jnp.zeros((2, 8, 24, 3))})
    assert features.grid == (2, 6) and features.tokens.shape == (2, 12, 32)
    with pytest.raises(UserError, match="does not divide"):
        tiny.encode(params, REST, {"image": jnp.zeros((2, 10, 24, 3))})


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_perfect_prediction_paints_the_original(tiny, norm_pix):
    """Pictures are right for raw and for normalised pixels: put the target in the prediction's place."""
    m = dataclasses.replace(tiny, norm_pix=norm_pix)
    params, _ = m.init(jax.random.key(0), {"image": IMAGE})
    _, aux = loss(m, params)
    drawn = m.pictures(dict(aux.seen) | {"pred": aux.seen["target"]}, {"image": IMAGE})
    for what in ("reconstruction", "pasted"):
        np.testing.assert_allclose(drawn[what], IMAGE, atol=1e-4)
    assert (np.asarray(drawn["masked"]) == 0).mean() == 12 / 16


def test_valid_tokens_count_alone(tiny, params):
    """Padding tokens influence neither the loss nor the visible tokens."""
    valid = jnp.ones((4, 16), bool).at[:, 12:].set(False)
    changed = IMAGE.at[:, 12:].set(5.0)  # the last row of patches is padding
    losses = [
        tiny.loss(params, REST, {"image": x, "valid_tokens": valid}, Context(jax.random.key(0)))[0]
        for x in (IMAGE, changed)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(patch=5), "does not divide"),
        (dict(mask_ratio=0.97), "leaves no visible token"),
        (dict(mask_ratio=0.0), "hides none"),
        (dict(heads=5), "method.dim=32 must be a multiple of method.heads=5"),
        (dict(decoder_heads=3), "method.decoder_dim=16"),
    ],
)
def test_fields_that_do_not_fit_are_refused(tiny, fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(tiny, **fields).check()


def test_learned_positions_start_where_the_table_is_put_and_serve_other_sizes(tiny):
    """With the fixed table as their value they give the fixed method's features; another size interpolates them."""
    from mae_jax.tokens.positions import sincos, with_prefix

    learned = dataclasses.replace(tiny, positions="learned")
    image = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    params, _ = learned.init(jax.random.key(0), {"image": image})
    assert params["encoder"]["pos_embed"].shape == (1, 17, 32)
    params["encoder"]["pos_embed"] = jnp.asarray(with_prefix(sincos(32, (4, 4)), 1)[None])
    rest = {"stats": {}, "ema": {}, "frozen": {}}
    fixed = {k: {n: v for n, v in part.items() if n != "pos_embed"} for k, part in params.items()}
    ours, theirs = (m.encode(p, rest, {"image": image}).normed for m, p in ((learned, params), (tiny, fixed)))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    wide = learned.encode(params, rest, {"image": jnp.zeros((2, 16, 24, 3))})
    assert wide.grid == (4, 6) and wide.normed.shape == (2, 24, 32)
