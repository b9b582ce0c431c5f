"""Mean and deviation against numpy in float64 on all pixels at once, and exact under any grouping."""

from fractions import Fraction

import numpy as np
import pytest

from mae_jax.data.moments import Moments


def images(dtype, channels=3):
    rng = np.random.default_rng(5)
    sizes = [(7, 5), (300, 280), (1, 1), (64, 33)]  # one of more than a band of 65536 pixels
    if dtype == "float32":
        return [(3 + 0.1 * rng.standard_normal((h, w, channels))).astype(dtype) for h, w in sizes]
    return [rng.integers(0, np.iinfo(dtype).max + 1, (h, w, channels)).astype(dtype) for h, w in sizes]


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_against_numpy_on_the_concatenation(dtype, white, channels):
    parts = images(dtype, channels)
    pixels = np.concatenate([p.reshape(-1, channels) for p in parts]).astype(np.float64) / white
    total = sum(map(Moments.of, parts), Moments())
    assert total.pixels == len(pixels)
    np.testing.assert_allclose(total.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(total.std, pixels.std(0), rtol=1e-10)


def test_sums_of_integers_are_exact():
    """White pixels: every value 255, so sum and squares are the number of pixels, where float32 sums would stall."""
    white = Moments.of(np.full((4200, 4100, 1), 255, np.uint8))
    assert white.sums == white.squares == (Fraction(4200 * 4100),)
    assert white.mean == 1 and white.std == 0
    deep = Moments.of(np.full((300, 300, 2), 65535, np.uint16))
    assert deep.squares == (Fraction(90000),) * 2


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_grouping_and_order_change_no_bit(dtype):
    a, b, c, d = map(Moments.of, images(dtype))
    assert (a + b) + (c + d) == d + (b + (c + a)) == Moments() + a + b + c + d
    assert Moments.from_json((a + b).to_json()) == a + b


def test_a_grey_and_a_deep_image_share_units():
    shallow, deep = Moments.of(np.full((2, 2, 1), 51, np.uint8)), Moments.of(np.full((2, 2, 1), 257 * 51, np.uint16))
    assert shallow == deep


def test_what_cannot_be_added():
    with pytest.raises(ValueError, match="uint8, uint16, float32"):
        Moments.of(np.zeros((4, 4, 3), np.int64))
    with pytest.raises(ValueError, match="1 and of 3 channels"):
        Moments.of(np.zeros((4, 4, 1), np.uint8)) + Moments.of(np.zeros((4, 4, 3), np.uint8))
