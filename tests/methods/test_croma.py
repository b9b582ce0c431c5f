"""CROMA's own invariants (papers/croma)."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.config import resolve
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.croma import CROMA
from mae_jax.nets.layers import apply
from mae_jax.tokens.grid import patchify, unpatchify
from mae_jax.train.build import build, sample_batch

REST = {"stats": {}, "ema": {}, "frozen": {}}
METHOD = CROMA(
    image_size=16, patch=4, optical=3, radar=2, dim=24, depth=2, heads=3, decoder_dim=16, decoder_heads=2,
)  # fmt: skip
IMAGE = jax.random.normal(jax.random.key(7), (4, 16, 16, 5))
NOISES = [jax.random.uniform(jax.random.key(i), (4, 16)) for i in (8, 9)]


@jax.jit
def run(params, image=IMAGE, optical=NOISES[0], radar=NOISES[1]):
    given = {"mask_optical": optical, "mask_radar": radar}
    return METHOD.loss(params, REST, {"image": image}, Context(jax.random.key(0), given=given))


@pytest.fixture(scope="module")
def params():
    return jax.jit(METHOD.init)(jax.random.key(0), {"image": IMAGE})[0]


@pytest.mark.parametrize(
    "fields, expected",
    [
        (dict(), dict(optical=85.6, radar=42.6, joint=56.7, decoder=4.12)),
        (dict(dim=1024, depth=24), dict(optical=303.0, radar=151.3, joint=201.5)),
    ],
)
def test_sizes_of_the_published_models(fields, expected):
    """Sheet, in millions; there the decoder has its fixed table too."""
    method = CROMA(**fields)
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    table = 225 * 512
    for part, millions in expected.items():
        assert abs((tree.size(shapes[part]) + table * (part == "decoder")) / 1e6 - millions) < 0.06, part
    if not fields:
        assert abs((tree.size(shapes) + table) / 1e6 - 199.7) < 0.1


def test_every_linear_layer_starts_as_torch_s_default():
    big = CROMA(image_size=16, patch=4, dim=96, depth=2, heads=4, decoder_dim=64)
    params = tree.flatten(jax.jit(big.init)(jax.random.key(0), sample_batch(big))[0])
    kernels = [path for path in params if path.endswith("kernel")]
    assert len(kernels) == 34
    for path in kernels:
        bound = params[path].shape[0] ** -0.5
        assert 0.95 * bound < np.abs(params[path]).max() <= bound, path
        bias = path.removesuffix("kernel") + "bias"
        assert (bias in params) == (re.search(r"/(qkv|q|k|v)/kernel$", path) is None)
        if bias in params:
            assert 0.8 * bound < np.abs(params[bias]).max() <= bound, bias
    np.testing.assert_allclose(np.exp(params["contrast/temperature"]), 1 / 0.07, rtol=1e-6)


def test_each_sensor_is_scored_where_it_is_hidden(params):
    loss, aux = run(params)
    tokens = np.asarray(patchify(IMAGE, (4, 4)), np.float64)  # [b, n, 16 pixels x 5 channels]
    target = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True, ddof=1) + 1e-6)
    error = np.square(np.asarray(aux.seen["pred"]) - target).reshape(4, 16, 16, 5)
    hidden = {s: np.asarray(aux.seen[f"hidden_{s}"]) for s in ("optical", "radar")}
    assert not np.array_equal(hidden["optical"], hidden["radar"])
    np.testing.assert_allclose(aux.metrics["optical"], error[..., :3].mean((2, 3))[hidden["optical"]].mean(), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["radar"], error[..., 3:].mean((2, 3))[hidden["radar"]].mean(), rtol=1e-4)
    np.testing.assert_allclose(loss, sum(aux.metrics[k] for k in ("contrast", "optical", "radar")), rtol=1e-6)


def test_a_sensor_s_hidden_pixels_reach_no_encoder(params):
    """The conformance test hides patches from both sensors; here each from its own."""
    _, aux = run(params)
    tokens = patchify(IMAGE, (4, 4)).reshape(4, 16, 16, 5)
    gone = jnp.stack([aux.seen["hidden_optical"]] * 3 + [aux.seen["hidden_radar"]] * 2, axis=-1)[:, :, None]
    changed = jnp.where(gone, 9.0, tokens).reshape(4, 16, 80)
    _, other = run(params, unpatchify(changed, METHOD.grid, (4, 4)))
    for name in ("optical", "radar", "joint", "pred"):
        np.testing.assert_array_equal(other.seen[name], aux.seen[name])


def test_equal_masks_make_training_agree_with_encoding(params):
    """Sheet: under one mask the radar-to-optical distances are also those of radar to radar, as without masks."""
    same = {"mask_optical": NOISES[0], "mask_radar": NOISES[0]}
    apart = {"mask_optical": NOISES[0], "mask_radar": NOISES[1]}
    right = dataclasses.replace(METHOD, self_bias="radar")

    def joint(method, given):
        ctx = Context(jax.random.key(0), given=given)
        return jax.jit(lambda p: method.loss(p, REST, {"image": IMAGE}, ctx)[1].seen["joint"])(params)

    np.testing.assert_allclose(joint(METHOD, same), joint(right, same), atol=1e-6)
    assert not np.allclose(joint(METHOD, apart), joint(right, apart), atol=1e-4)


def test_encoders_see_distances_only(params):
    """The same patches one row further down, in the same order, are the same tokens."""
    tokens = patchify(IMAGE, (4, 4)).reshape(4, 4, 4, 80)
    moved = unpatchify(jnp.roll(tokens, 1, axis=1).reshape(4, 16, 80), METHOD.grid, (4, 4))
    noise = NOISES[0].reshape(4, 4, 4).at[:, 3].add(2.0)  # the last row is hidden: nothing wraps round
    shifted = jnp.roll(noise, 1, axis=1).reshape(4, 16)
    first = run(params, IMAGE, noise.reshape(4, 16), noise.reshape(4, 16))[1].seen
    second = run(params, moved, shifted, shifted)[1].seen
    for name in ("optical", "radar", "joint"):
        np.testing.assert_allclose(second[name], first[name], atol=1e-5)


def test_encode_at_twice_the_size_and_of_one_sensor(params):
    wide = jax.random.normal(jax.random.key(3), (1, 32, 16, 5))
    both = METHOD.encode(params, REST, {"image": wide})
    assert both.grid == (8, 4) and both.tokens.shape == (1, 32, 24)
    assert set(both.parts) == {"optical", "radar", "joint", "optical_gap", "radar_gap", "joint_gap"}
    np.testing.assert_allclose(both.parts["joint_gap"], both.normed.mean(1), atol=1e-6)
    expected = apply(METHOD.gap, params["radar_gap"], both.parts["radar"])
    np.testing.assert_allclose(both.parts["radar_gap"], expected, atol=1e-5)
    radar = METHOD.encode(params, REST, {"radar": wide[..., 3:]})
    assert set(radar.parts) == {"radar", "radar_gap"} and radar.grid == (8, 4)
    np.testing.assert_allclose(radar.normed, both.parts["radar"], atol=1e-6)


def test_contrast_starts_near_log_batch_and_gives_the_anchor_alone_a_gradient(params):
    _, aux = run(params)
    np.testing.assert_allclose(aux.metrics["contrast"], np.log(4), atol=0.7)
    gap = {s: aux.seen[f"{s}_gap"] for s in ("optical", "radar")}

    def sensitivity(method):
        return jax.grad(lambda g: method._contrast(params, g)[0])(gap)["radar"]

    one, both = sensitivity(METHOD), sensitivity(dataclasses.replace(METHOD, contrast_gradient="both"))
    assert jnp.abs(one).max() > 0 and not np.allclose(one, both, rtol=1e-2)


def test_microbatches_are_refused():
    sections = {
        "method": {"name": "croma"} | dict(image_size=16, patch=4, dim=24, depth=2, heads=3, decoder_dim=16),
        "data": {"source": "sensors"}, "augment": {"normalise": "batch"}, "train": {"batch": 16, "microbatches": 2},
    }  # fmt: skip
    with pytest.raises(UserError, match="contrasts every sample with the whole batch"):
        build(resolve(sections))


def test_a_perfect_prediction_paints_the_original(params):
    _, aux = run(params)
    drawn = METHOD.pictures(dict(aux.seen) | {"pred": aux.seen["target"]}, {"image": IMAGE})
    np.testing.assert_allclose(drawn["reconstruction"], IMAGE, atol=1e-4)
    np.testing.assert_allclose(drawn["radar_reconstruction"], drawn["radar"], atol=1e-4)
    assert drawn["radar"].shape == (4, 16, 16, 1) and drawn["radar"].min() == 0 and drawn["radar"].max() == 1


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(patch=5), "does not divide"),
        (dict(mask_ratio=0.0), "hides none"),
        (dict(heads=5), "method.dim=24 must be a multiple of method.heads=5"),
        (dict(decoder_heads=3), "method.decoder_dim=16"),
        (dict(depth=1), "method.depth=1"),
        (dict(radar=0), "method.radar=0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(METHOD, **fields).check()
