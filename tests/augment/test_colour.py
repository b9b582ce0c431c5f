"""Colours against Pillow, colorsys and scipy; the laws of their draws."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage
from sklearn.datasets import load_sample_image

from mae_jax.augment import colour
from mae_jax.augment.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, Colour
from mae_jax.core.keys import Context

ALL = (BRIGHTNESS, CONTRAST, SATURATION, HUE)


@pytest.fixture(scope="module")
def photos():
    """uint8 [3, 20, 28, 3]: sky, roof and a flower's colours."""
    china, flower = load_sample_image("china.jpg"), load_sample_image("flower.jpg")
    return np.stack([china[:20, :28], china[200:220, 300:328], flower[200:220, 300:328]])


def unit(photos):
    return jnp.asarray(photos, jnp.float32) / 255


def context(seed=0):
    return Context(jax.random.key(seed))


def one(op, x, factor):
    """A single operation by `jitter`."""
    b = len(x)
    return jitter(x, jnp.full((b, 1), factor), jnp.zeros((b, 1)), (op,))


@functools.partial(jax.jit, static_argnums=3)
def jitter(x, factor, order, which):
    return colour.jitter(x, factor, order, list(which))


@functools.partial(jax.jit, static_argnums=1)
def happen(x, colours, seed=0):
    """(`x` after draws by `colours`, the draws)."""
    draws = colour.draw(context(seed), "image", len(x), colours)
    return colour.apply(x, draws, colours), draws


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("op, pillow", [(BRIGHTNESS, ImageEnhance.Brightness), (CONTRAST, ImageEnhance.Contrast),
                                        (SATURATION, ImageEnhance.Color)])  # fmt: skip
def test_blends_are_pillows(photos, op, pillow, factor):
    found = 255 * np.asarray(one(op, unit(photos), factor))
    for x, photo in zip(found, photos):
        expected = np.asarray(pillow(Image.fromarray(photo)).enhance(factor), float)
        np.testing.assert_allclose(x, expected, atol=1.6)  # Pillow's greys and results are whole numbers
    if factor == 1:
        np.testing.assert_allclose(found, photos, atol=1e-4)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.3])
def test_hue_is_that_of_hsv(photos, shift):
    found = np.asarray(one(HUE, unit(photos), shift))[:, ::5, ::7].reshape(-1, 3)
    for x, (h, s, v) in zip(found, (colorsys.rgb_to_hsv(*p) for p in photos[:, ::5, ::7].reshape(-1, 3) / 255)):
        np.testing.assert_allclose(x, colorsys.hsv_to_rgb((h + shift) % 1, s, v), atol=2e-5)


def test_hue_leaves_greys_alone_and_a_full_turn_changes_nothing(photos):
    greys = jnp.broadcast_to(jnp.linspace(0, 1, 9)[None, None, :, None], (2, 1, 9, 3))
    np.testing.assert_allclose(one(HUE, greys, 0.37), greys, atol=1e-6)
    np.testing.assert_allclose(one(HUE, unit(photos), 1.0), unit(photos), atol=1e-5)


def test_each_sample_has_its_own_order(photos):
    x = unit(np.stack([photos[2]] * 3))
    factor = jnp.tile(jnp.array([0.7, 1.4, 0.5, 0.08]), (3, 1))
    orders = [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)]  # by operation
    found = jitter(x, factor, jnp.array(orders, jnp.float32), ALL)
    results = []
    for i, order in enumerate(orders):
        expected = x[i : i + 1]
        for op in np.argsort(order):
            expected = one(int(op), expected, float(factor[0, op]))
        np.testing.assert_allclose(found[i], expected[0], atol=1e-5)
        results.append(np.asarray(expected))
    assert np.abs(results[0] - results[1]).max() > 0.02


def test_grey_solarize_and_blur(photos):
    x = unit(photos)
    grey, solar = (255 * np.asarray(happen(x, c)[0]) for c in (Colour(grayscale=1.0), Colour(solarize=1.0)))
    solar = np.round(solar)
    for i, photo in enumerate(photos):
        picture = Image.fromarray(photo)
        np.testing.assert_allclose(grey[i], np.repeat(np.asarray(picture.convert("L"), float)[..., None], 3, 2), atol=1)
        np.testing.assert_array_equal(solar[i], np.asarray(ImageOps.solarize(picture)))
    np.testing.assert_allclose(colour.grey(jnp.asarray(grey)), grey[..., :1], rtol=2e-4)  # its weights add up to 0.9999
    sigma = np.array([0.1, 0.9, 2.0])
    blurred = np.asarray(jax.jit(colour.blur)(x, jnp.asarray(sigma, jnp.float32)))
    for i, s in enumerate(sigma):
        filtered = ndimage.gaussian_filter(np.asarray(x[i], float), (s, s, 0), mode="mirror", radius=8)
        np.testing.assert_allclose(blurred[i], filtered, atol=1e-5)
    flat = jnp.full((1, 4, 3, 3), 0.3)  # smaller than the kernel
    np.testing.assert_allclose(jax.jit(colour.blur)(flat, jnp.array([2.0])), flat, atol=1e-6)


def test_law_of_the_jitter():
    n = 4000
    draws = colour.draw(context(1), "image", n, Colour(jitter=(0.4, 1.5, 0.0, 0.1), jitter_p=0.8))
    factor, order = np.asarray(draws.factor), np.asarray(draws.order).astype(int)
    for column, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (-0.1, 0.1)]):  # torchvision's: never below 0
        values = factor[:, column]
        assert low <= values.min() and values.max() <= high
        assert (
            abs(values.mean() - (low + high) / 2) < 0.08 * (high - low)
            and abs(np.ptp(values) / (high - low) - 1) < 0.01
        )
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 6 and np.abs(counts - n / 6).max() < 5 * np.sqrt(n / 6)
    assert abs(np.mean(draws.jitter) - 0.8) < 0.035


def test_chances_by_counts():
    n = 4000
    colours = Colour(grayscale=0.2, blur=0.5, solarize=0.1)
    draws = colour.draw(context(2), "image", n, colours)
    for hits, p in ((draws.grey, 0.2), (draws.blur, 0.5), (draws.solarize, 0.1)):
        assert abs(np.mean(hits) - p) < 5 * np.sqrt(p * (1 - p) / n)
    assert np.mean(draws.grey & draws.blur) > 0.07  # independent
    assert draws.sigma.min() >= 0.1 and draws.sigma.max() <= 2 and abs(draws.sigma.mean() - 1.05) < 0.05
    third = Colour(grayscale=1 / 3, blur=1 / 3, solarize=1 / 3, one_of=True)
    draws = colour.draw(context(3), "image", n, third)
    hits = np.stack([draws.grey, draws.blur, draws.solarize])
    assert (hits.sum(0) == 1).all() and np.abs(hits.mean(1) - 1 / 3).max() < 0.04
    half = colour.draw(context(3), "image", n, third._replace(blur=0.0))
    assert half.blur is None and abs(np.mean(half.grey | half.solarize) - 2 / 3) < 0.04


def test_what_does_not_happen_to_a_sample_leaves_it_as_it_is(photos):
    x = unit(np.concatenate([photos] * 8))
    colours = Colour((0.4, 0.4, 0.2, 0.1), 0.5)
    found, draws = jax.device_get(happen(x, colours, 4))
    hit = draws.jitter
    assert 0 < hit.sum() < len(x)
    np.testing.assert_array_equal(found[~hit], x[~hit])
    assert (np.abs(found - x).max((1, 2, 3)) > 0)[hit].all()
    assert found.min() >= 0 and found.max() <= 1
