"""Mixup and cutmix against timm's numbers, and the law of their draws."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.augment.mixup import Box, box_lam, cutmix, cutmix_box, draw, mix, mixup, soft_targets
from mae_jax.losses.cross_entropy import cross_entropy, soft_cross_entropy

GOLDEN = Path(__file__).parent.parent / "golden" / "mae" / "mixup.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        config = json.loads(str(file["meta"]))["config"]
        arrays = {name: file[name] for name in file.files if name != "meta"}
    arrays["in/imgs"] = jnp.asarray(arrays["in/imgs"].transpose(0, 2, 3, 1))
    arrays["in/labels"] = jnp.asarray(arrays["in/labels"])
    return config, arrays


def test_mixup_is_timms(golden):
    config, arrays = golden
    lam = float(arrays["in/lam"])
    images = np.asarray(mixup(arrays["in/imgs"], lam)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, arrays["out/mixup_imgs"], atol=1e-6)
    targets = soft_targets(arrays["in/labels"], config["num_classes"], config["smoothing"], lam)
    np.testing.assert_allclose(targets, arrays["out/mixup_target"], atol=1e-6)
    loss = soft_cross_entropy(jnp.asarray(arrays["in/logits"]), targets).mean()
    np.testing.assert_allclose(loss, arrays["out/mixup_loss"], rtol=1e-6)


def test_cutmix_is_timms(golden):
    config, arrays = golden
    box = Box(*arrays["in/bbox"].tolist())
    images = np.asarray(cutmix(arrays["in/imgs"], box)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images, arrays["out/cutmix_imgs"])
    lam = box_lam(box, (16, 16))
    np.testing.assert_allclose(lam, arrays["out/cutmix_lam"], rtol=1e-6)
    targets = soft_targets(arrays["in/labels"], config["num_classes"], config["smoothing"], lam)
    np.testing.assert_allclose(targets, arrays["out/cutmix_target"], atol=1e-6)
    loss = soft_cross_entropy(jnp.asarray(arrays["in/logits"]), targets).mean()
    np.testing.assert_allclose(loss, arrays["out/cutmix_loss"], rtol=1e-6)


def test_hard_labels_are_the_unsmoothed_limit():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((5, 7)), jnp.float32)
    labels = jnp.arange(5)
    expected = -np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[np.arange(5), np.arange(5)]
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-5)
    np.testing.assert_allclose(soft_cross_entropy(logits, soft_targets(labels, 7, 0.0, 1.0)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "lam,centre,expected",
    [
        (0.75, (8, 12), (4, 12, 6, 18)),  # ratio 1/2 of 16 x 24: half sides 4 and 6
        (0.75, (1, 23), (0, 5, 17, 24)),  # clipped at two edges
        (1.0, (5, 5), (5, 5, 5, 5)),  # an empty box
        (0.0, (8, 12), (0, 16, 0, 24)),  # everything
        (0.5, (8, 12), (3, 13, 4, 20)),  # sides int(11.3) = 11 and int(16.97) = 16, half sides 5 and 8
    ],
)
def test_box(lam, centre, expected):
    assert tuple(int(edge) for edge in cutmix_box((16, 24), lam, centre)) == expected


def test_law_of_the_draws():
    keys = jax.random.split(jax.random.key(0), 4000)
    lam, box, use_cutmix = jax.jit(jax.vmap(lambda key: draw(key, (20, 30))))(keys)
    lam, use_cutmix = np.asarray(lam), np.asarray(use_cutmix)
    assert abs(use_cutmix.mean() - 0.5) < 0.04  # 5 standard errors
    mixup_lam = lam[~use_cutmix]
    variance = 0.8 * 0.8 / (1.6**2 * 2.6)  # of Beta(0.8, 0.8)
    assert abs(mixup_lam.mean() - 0.5) < 0.04 and abs(mixup_lam.var() - variance) < 0.01
    share = np.asarray(jax.vmap(lambda b: box_lam(b, (20, 30)))(box))
    np.testing.assert_allclose(lam[use_cutmix], share[use_cutmix], rtol=1e-6)
    assert lam[use_cutmix].mean() > 0.55  # clipping leaves the own image more than half on average


def test_switching_kinds_off():
    keys = jax.random.split(jax.random.key(1), 200)
    only_mixup = jax.vmap(lambda key: draw(key, (8, 8), cutmix_alpha=0.0))(keys)
    only_cutmix = jax.vmap(lambda key: draw(key, (8, 8), mixup_alpha=0.0))(keys)
    never = jax.vmap(lambda key: draw(key, (8, 8), probability=0.0))(keys)
    assert not only_mixup.use_cutmix.any() and only_cutmix.use_cutmix.all()
    assert not never.use_cutmix.any() and bool((never.lam == 1).all())
    with pytest.raises(ValueError, match="mixup_alpha"):
        draw(jax.random.key(0), (8, 8), mixup_alpha=0.0, cutmix_alpha=0.0)


def test_mix_follows_the_draw():
    images = jnp.asarray(np.random.default_rng(2).standard_normal((4, 8, 8, 1)), jnp.float32)
    labels = jnp.arange(4)
    kinds = set()
    for seed in range(8):
        one = draw(jax.random.key(seed), (8, 8))
        mixed, targets = mix(images, labels, one, classes=4, smoothing=0.1)
        kind = bool(one.use_cutmix)
        kinds.add(kind)
        np.testing.assert_allclose(mixed, cutmix(images, one.box) if kind else mixup(images, one.lam), atol=1e-6)
        np.testing.assert_allclose(targets.sum(-1), np.ones(4), atol=1e-6)
    assert kinds == {True, False}
