"""Coloured noise against its closed-form spectrum, and what its masks look like."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.masking.colour import (
    FILTERS,
    Bank,
    check_blur,
    colored_noise,
    crop_windows,
    draw_pass,
    draw_sample,
    fresh_windows,
    margin,
    response,
)  # fmt: skip
from mae_jax.masking.select import select

BLUR = (0.8, 2.0)
PATTERNS = {c: colored_noise(np.random.default_rng(3), c, 300, (32, 32), BLUR) for c in FILTERS}


def radial(power):
    """Mean over rings of equal frequency, from low to high, without the mean of the image."""
    rows, columns = (np.fft.fftfreq(n) for n in power.shape)
    ring = np.round(32 * np.hypot(rows[:, None], columns[None])).astype(int)
    return np.array([power[ring == r].mean() for r in range(1, 17)])


def kept(noise):
    """Where the highest quarter of each window is."""
    b, h, w = noise.shape
    mask = select(-jnp.asarray(noise).reshape(b, -1), h * w // 4)
    return ~np.asarray(mask.hidden).reshape(b, h, w)


@pytest.mark.parametrize("colour", FILTERS)
def test_the_spectrum_is_the_filters(colour):
    """Power of filtered white noise = response^2. Patterns are stretched to [0, 1], each by itself: shapes compare."""
    noise = PATTERNS[colour]
    assert noise.dtype == np.float32 and noise.min() == 0 and noise.max() == 1
    power = np.mean(np.abs(np.fft.fft2(noise - noise.mean(axis=(1, 2), keepdims=True))) ** 2, axis=0)
    found, wanted = radial(power), radial(response(colour, (32, 32), BLUR) ** 2)
    np.testing.assert_allclose(found / found.sum(), wanted / wanted.sum(), atol=0.012)
    peak, dip = found.argmax(), found.argmin()
    if colour == "red":
        assert (np.diff(wanted) < 0).all() and peak == 0
    if colour == "blue":
        assert (np.diff(wanted) > 0).all() and dip == 0
    if colour == "green":
        assert 0 < peak < 15
    if colour == "purple":
        assert 0 < dip < 15


def test_masks_have_the_colours_look():
    """Blobs: the coarser the noise, the fewer pieces are visible, the more hidden patches have hidden neighbours
    alone, and the further it is to what is visible."""
    pieces, buried, far = {}, {}, {}
    for colour, noise in PATTERNS.items():
        visible = kept(noise[:, :14, :14])
        assert (visible.sum(axis=(1, 2)) == 49).all()
        pieces[colour] = np.mean([ndimage.label(v)[1] for v in visible])
        hidden = np.pad(~visible, ((0, 0), (1, 1), (1, 1)), constant_values=True)
        around = hidden[:, :-2, 1:-1] & hidden[:, 2:, 1:-1] & hidden[:, 1:-1, :-2] & hidden[:, 1:-1, 2:]
        buried[colour] = (around & ~visible).sum() / (~visible).sum()
        far[colour] = np.mean([ndimage.distance_transform_edt(~v)[~v].mean() for v in visible])
    assert pieces["blue"] > pieces["white"] > pieces["green"] > pieces["red"]
    assert buried["red"] > buried["green"] > buried["white"] > buried["blue"]
    assert far["red"] > far["green"] > far["white"] > far["blue"]


@pytest.mark.parametrize("colour", FILTERS)
def test_fresh_noise_has_the_same_spectrum_as_a_bank(colour):
    """Blurred on the device and cut out of a larger field: variances of neighbours' sums and differences compare."""
    k = margin(BLUR)
    white = np.random.default_rng(0).standard_normal((400, 14 + 2 * k, 9 + 2 * k)).astype(np.float32)
    weights = jnp.asarray(FILTERS[colour], jnp.float32)
    found = np.asarray(jax.jit(fresh_windows, static_argnums=(2, 3))(jnp.asarray(white), weights, BLUR, (14, 9)))
    assert found.shape == (400, 14, 9)
    # Autocovariance of the filter's noise: the inverse transform of its power.
    covariance = np.fft.ifft2(response(colour, (64, 64), BLUR) ** 2).real
    for shift in ((0, 0), (0, 1), (2, 0), (3, 3)):
        a = found[:, shift[0] :, shift[1] :]
        b = found[:, : 14 - shift[0], : 9 - shift[1]]
        np.testing.assert_allclose((a * b).mean(), covariance[shift], atol=0.02 * max(covariance[0, 0], 0.1))


def test_a_flipped_window_gives_the_flipped_mask():
    patterns = jnp.asarray(PATTERNS["green"][:4])
    number, corner = jnp.arange(4), jnp.asarray([[0, 0], [3, 18], [18, 3], [7, 7]])
    cut = lambda h, v: crop_windows(patterns, number, corner, jnp.asarray([[h, v]] * 4), (14, 14))
    plain = kept(cut(False, False))
    np.testing.assert_array_equal(kept(cut(True, False)), plain[:, :, ::-1])
    np.testing.assert_array_equal(kept(cut(False, True)), plain[:, ::-1])
    windows = np.asarray(cut(False, False))
    own = PATTERNS["green"][1, 3:17, 18:32]
    np.testing.assert_allclose(windows[1], own / own.max(), rtol=1e-6)
    below = crop_windows(-patterns - 1, number, corner, jnp.zeros((4, 2), bool), (14, 14))
    np.testing.assert_array_equal(kept(below), kept(cut(False, False) * -1))  # a negative peak does not turn the order


def test_a_pass_shares_its_crop_and_takes_the_patterns_in_turn():
    rows = jnp.arange(20)[5:17]  # a part of the global batch
    number, corner, flip = (np.asarray(x) for x in draw_pass(Context(jax.random.key(0), 7, rows), 12, 4, (18, 18)))
    np.testing.assert_array_equal(number, np.arange(5, 17) % 4)
    of_pass = np.arange(5, 17) // 4
    both = np.concatenate([corner, flip], axis=1)
    for p in np.unique(of_pass):
        assert len(np.unique(both[of_pass == p], axis=0)) == 1
    assert len(np.unique(both, axis=0)) == 4  # passes 1 to 4
    whole = draw_pass(Context(jax.random.key(0), 7), 20, 4, (18, 18))
    np.testing.assert_array_equal(corner, np.asarray(whole[1])[5:17])


@pytest.mark.parametrize("room", [(0, 0), (1, 18)])
def test_draws_per_sample_reach_every_place_and_pattern(room):
    number, corner, flip = draw_sample(Context(jax.random.key(0)), 2000, 3, room)
    assert set(np.unique(number)) == {0, 1, 2} and set(np.unique(flip)) == {False, True}
    for axis, places in enumerate(room):
        assert set(np.unique(corner[:, axis])) == set(range(places + 1))


def test_a_bank_is_a_function_of_its_fields():
    bank = Bank("blue", 3, (8, 10), BLUR, seed=4)
    np.testing.assert_array_equal(bank.generate(), Bank("blue", 3, (8, 10), BLUR, seed=4).generate())
    assert bank.recipe != Bank("blue", 3, (8, 10), BLUR, seed=5).recipe
    with pytest.raises(UserError, match="smaller first"):
        check_blur((2.0, 2.0))
