"""SparK's own invariants (papers/spark): holes stay empty, nothing leaks, sparse with nothing hidden is dense."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.spark import SparK
from mae_jax.nets.convnet import spread
from mae_jax.nets.convnext import Classifier
from mae_jax.tokens.grid import patchify, unpatchify

RESNET = SparK(
    image_size=16, dims=(8, 16), depths=(1, 2), stem_stride=2, stem_dim=8, decoder_dim=16, drop_path=0.0, mask_ratio=0.6
)
CONVNEXT = dataclasses.replace(RESNET, arch="convnext", layer_scale=0.5)
IMAGE = jax.random.normal(jax.random.key(7), (3, 16, 16, 3))


def weights(method):
    """(params, stats): normal numbers, scales around 1, the statistics of a fresh network. Quicker than `init`."""
    rng = np.random.default_rng(0)
    params, stats = jax.eval_shape(method.init, jax.random.key(0), {"image": IMAGE})
    draw = lambda path, s: jnp.asarray(path.endswith("scale") + 0.2 * rng.standard_normal(s.shape), jnp.float32)
    fresh = lambda path, s: jnp.full(s.shape, float(path.endswith("var")))
    return tree.map_with_path(draw, params), tree.map_with_path(fresh, stats)


@pytest.fixture(scope="module", params=[RESNET, CONVNEXT], ids=lambda m: m.arch)
def case(request):
    """(method, params moved off their zeros, stats, jitted loss of (image, noise or None))."""
    method = request.param
    params, stats = weights(method)

    @jax.jit
    def loss(image, noise=None):
        ctx = Context(jax.random.key(1), given=None if noise is None else {"mask": noise})
        return method.loss(params, {"stats": stats, "ema": {}, "frozen": {}}, {"image": image}, ctx)

    return method, params, stats, loss


def test_features_are_zero_where_hidden_and_only_there(case):
    method, _, _, loss = case
    _, aux = loss(IMAGE)
    active = ~aux.seen["hidden"].reshape(3, *method.grid, 1)
    for i in range(len(method.dims)):
        x = aux.seen[f"level{i}"]
        seen = np.broadcast_to(spread(active, x.shape[1:3]), x.shape)
        assert (np.asarray(x)[~seen] == 0).all() and (np.asarray(x)[seen] != 0).mean() > 0.4


def test_hidden_pixels_move_the_target_and_nothing_else(case):
    method, _, _, loss = case
    value, aux = loss(IMAGE)
    hidden = aux.seen["hidden"][:, :, None]
    other = unpatchify(jnp.where(hidden, 3.0, patchify(IMAGE, method.patch)), method.grid, method.patch)
    changed, after = loss(other)
    np.testing.assert_array_equal(after.seen["pred"], aux.seen["pred"])
    jax.tree.map(np.testing.assert_array_equal, after.stats, aux.stats)
    assert changed != value


def test_sparse_with_nothing_hidden_is_dense(case):
    method, params, stats, _ = case
    weights = {"params": params["encoder"], "stats": stats.get("encoder", {})}
    run = jax.jit(lambda active: method.encoder.apply(weights, IMAGE, active))
    for sparse, dense in zip(run(jnp.ones((3, *method.grid, 1), bool)), run(None)):
        np.testing.assert_allclose(sparse, dense, rtol=1e-5, atol=1e-5)


def test_statistics_are_of_visible_places():
    """Densify's batch norms: momentum 0.1 towards mean and unbiased variance of the active positions."""
    params, stats = weights(RESNET)
    rest = {"stats": stats, "ema": {}, "frozen": {}}
    _, aux = jax.jit(lambda p: RESNET.loss(p, rest, {"image": IMAGE}, Context(jax.random.key(1))))(params)
    active = ~np.asarray(aux.seen["hidden"]).reshape(3, 4, 4)
    x = np.asarray(aux.seen["level0"], np.float64)[active]
    np.testing.assert_allclose(aux.stats["densify"]["level0"]["norm"]["mean"], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(aux.stats["densify"]["level0"]["norm"]["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)


def test_loss_is_zero_for_the_target_and_almost_one_for_nothing(case):
    """Mean square of a hidden patch's target is (N - 1) / N: the variance is the unbiased one."""
    _, _, _, loss = case
    value, aux = loss(IMAGE)
    hidden, target, pred = (np.asarray(aux.seen[k], np.float64) for k in ("hidden", "target", "pred"))
    per_patch = ((pred - target) ** 2).mean(-1)
    np.testing.assert_allclose(value, per_patch[hidden > 0].mean(), rtol=1e-5)
    n = target.shape[-1]
    np.testing.assert_allclose((target[hidden > 0] ** 2).mean(), (n - 1) / n, rtol=1e-4)


@pytest.mark.parametrize("size, ratio, keep", [(12, 0.6, 4), (16, 0.6, 6), (16, 0.75, 4), (12, 0.5, 4)])
def test_the_count_of_visible_patches_is_rounded(size, ratio, keep):
    """9 x 0.4 = 3.6 -> 4, where MAE keeps 3; 9 x 0.5 = 4.5 -> 4, to even, as Python rounds."""
    method = dataclasses.replace(RESNET, image_size=size, mask_ratio=ratio)
    assert method.keep == keep == round(np.prod(method.grid) * (1 - ratio))


def test_the_given_noise_keeps_the_lowest(case):
    method, _, _, loss = case
    noise = jax.random.uniform(jax.random.key(3), (3, 16))
    hidden = np.asarray(loss(IMAGE, noise)[1].seen["hidden"])
    ranks = np.argsort(np.argsort(np.asarray(noise), axis=1), axis=1)
    np.testing.assert_array_equal(hidden, ranks >= 6)


def test_without_training_the_running_statistics_serve_and_stay():
    params, stats = weights(RESNET)
    rest = {"stats": stats, "ema": {}, "frozen": {}}
    ctx = Context(jax.random.key(1), train=False)
    both = jax.jit(lambda rest: RESNET.loss(params, rest, {"image": IMAGE}, ctx))
    value, aux = both(rest)
    jax.tree.map(np.testing.assert_array_equal, aux.stats, stats)
    ctx = Context(jax.random.key(1), train=False)
    doubled = jax.tree.map(lambda s: 2 * s + 0.1, stats)
    assert both(rest | {"stats": doubled})[0] != value


def test_encode_is_the_dense_pyramid(case):
    method, params, stats, _ = case
    rest = {"stats": stats, "ema": {}, "frozen": {}}
    encode = jax.jit(lambda train: method.encode(params, rest, {"image": IMAGE}, train=train), static_argnums=0)
    features = encode(False)
    assert [x.shape for x in features.levels] == [(3, 4, 4, 16), (3, 8, 8, 8)] and features.grid == (4, 4)
    np.testing.assert_array_equal(features.tokens, features.levels[0].reshape(3, 16, 16))
    trained = encode(True).stats
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), trained, stats))
    assert any(moved) == (method.arch == "resnet")  # only a ResNet's encoder has statistics


def test_the_dense_classifier_has_the_encoder_s_parameters():
    """Same names, same shapes: the pretrained encoder goes straight in; and its output is what the head reads."""
    net = Classifier(CONVNEXT.shape, classes=5)
    dense = jax.eval_shape(net.init, jax.random.key(1), IMAGE)["params"]
    params, _ = weights(CONVNEXT)
    assert jax.tree.map(jnp.shape, dense["encoder"]) == jax.tree.map(jnp.shape, params["encoder"])
    own = {
        "norm": {"scale": jnp.ones(16), "bias": jnp.zeros(16)},
        "head": jax.tree.map(lambda s: jnp.ones(s.shape), dense["head"]),
    }
    logits, pooled = jax.jit(net.apply)({"params": own | {"encoder": params["encoder"]}}, IMAGE)
    tokens = jax.jit(lambda: CONVNEXT.encode(params, {"stats": {}}, {"image": IMAGE}).tokens.mean(1))()
    normed = (tokens - tokens.mean(-1, keepdims=True)) / jnp.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(pooled, normed, atol=1e-4)
    np.testing.assert_allclose(logits, np.broadcast_to(1 + normed.sum(-1, keepdims=True), (3, 5)), atol=1e-4)


def test_drop_path_is_on_in_training_only():
    method = dataclasses.replace(RESNET, drop_path=0.9)
    params, stats = weights(RESNET)
    noise = {"mask": jax.random.uniform(jax.random.key(3), (3, 16)), "drop_path": jnp.full((3, 3, 1), 0.5)}

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def latent(m, train):
        ctx = Context(jax.random.key(0), train=train, given=noise)
        return m.loss(params, {"stats": stats, "ema": {}, "frozen": {}}, {"image": IMAGE}, ctx)[1].seen["latent"]

    np.testing.assert_array_equal(latent(method, False), latent(RESNET, False))
    assert not np.allclose(latent(method, True), latent(RESNET, True))


@pytest.mark.parametrize(
    "change, millions, macs",
    [
        # timm's model table without the 1000-way head; multiply-adds of torchvision's and ConvNeXt's tables.
        (dict(), 23.508, 4.09),
        (dict(depths=(3, 4, 23, 3)), 42.500, 7.80),
        (dict(depths=(3, 8, 36, 3)), 58.144, 11.51),
        (dict(depths=(3, 24, 36, 3)), 62.624, None),
        (dict(arch="convnext", depths=(3, 3, 27, 3), dims=(96, 192, 384, 768)), 49.45, 8.7),
        (dict(arch="convnext", depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024)), 87.57, 15.4),
        (dict(arch="convnext", depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)), 196.23, 34.4),
    ],
)
def test_published_encoders_have_the_published_size_and_cost(change, millions, macs):
    method = SparK(**change)
    assert method.grid == (7, 7) and method.keep == 20 and method.patch == (32, 32)
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 224, 224, 3))})
    assert abs(tree.size(shapes["encoder"]) / 1e6 - millions) < 0.006
    assert macs is None or abs(method.shape.flops(224 * 224, 3) / 2e9 - macs) < 0.05
    # ConvNeXt-S alone is as wide as the decoder, which then has no projection of the coarsest map.
    assert ("proj" in shapes["densify"]["level0"]) == (method.dims[-1] != 768)


LAWS = [
    (r"densify/.*/proj/(kernel|bias)$", "uniform"),  # torch's own default, +-1/sqrt(fan_in)
    (r"mask_token$", "cut"),
    (r"/gamma$", 1e-6),
    (r"decoder/.*/up/kernel$", "kaiming"),
    (r"blocks/\d+/bn3/scale$", 0.0),
    (r"scale$", 1.0),
    (r"bias$", 0.0),
    (r"encoder/(conv1|.*blocks/\d+/(conv\d|shortcut))/kernel$", "kaiming"),
    (r"kernel$", "normal"),
]


@pytest.mark.parametrize("arch", ["resnet", "convnext"])
def test_init_laws(arch):
    method = SparK(arch=arch, image_size=32, dims=(32, 64), depths=(1, 1), stem_stride=2, decoder_dim=128)
    params = tree.flatten(jax.jit(method.init)(jax.random.key(0), {"image": jnp.zeros((1, 32, 32, 3))})[0])
    for path, law in tree.match(LAWS, params, "init law").items():
        p = np.asarray(params[path])
        if isinstance(law, float):
            assert (p == np.float32(law)).all(), path
            continue
        kernel = params[path.replace("bias", "kernel")] if law == "uniform" else p
        fan_in, fan_out = np.prod(kernel.shape[:-1]), np.prod(kernel.shape[:2]) * kernel.shape[-1]
        std = {"uniform": (3 * fan_in) ** -0.5, "kaiming": (2 / fan_out) ** 0.5, "normal": 0.02, "cut": 0.02 * 0.5396}
        assert abs(p.std() / std[law] - 1) < (0.1 if p.size > 1000 else 0.3), path
        assert law not in ("uniform", "cut") or np.abs(p).max() <= {"uniform": fan_in**-0.5, "cut": 0.02}[law], path


def test_a_perfect_prediction_paints_the_original(case):
    method, _, _, loss = case
    _, aux = loss(IMAGE)
    drawn = method.pictures(dict(aux.seen) | {"pred": aux.seen["target"]}, {"image": IMAGE})
    for what in ("reconstruction", "pasted"):
        np.testing.assert_allclose(drawn[what], IMAGE, atol=1e-4)
    assert (np.asarray(drawn["masked"]) == 0).mean() == 10 / 16


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(image_size=18), "does not divide"),
        (dict(depths=(1, 1, 1)), "equally many"),
        (dict(stem_stride=8), "method.stem_stride=8 of a resnet must be one of (2, 4)"),
        (dict(dims=(8, 18)), "must be multiples of 4"),
        (dict(decoder_dim=3), "total stride 4"),
        (dict(mask_ratio=0.98), "leaves 0 of 16"),
        (dict(mask_ratio=0.01), "leaves 16 of 16"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(RESNET, **fields).check()
