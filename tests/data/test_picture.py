"""A Picture is what `decode` gives, once."""

import io

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import picture as module
from mae_jax.data.decode import BadImage, decode
from mae_jax.data.picture import Picture

RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encode(fmt, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, fmt, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("fmt", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_size_is_known_before_the_pixels_and_is_theirs(fmt, orientation):
    data = encode(fmt, orientation)
    shape = (40, 24) if orientation == 6 else (24, 40)
    assert Picture(data).size == shape == decode(data, 3).shape[:2]


def test_what_comes_out_does_not_depend_on_what_else_was_asked():
    data = encode("jpeg", 6)
    asked = [(c, s, e) for c in (1, 3) for s in (1, 2, 4) for e in (True, False)]
    for order in (asked, asked[::-1]):
        picture = Picture(data)
        for key in order:
            np.testing.assert_array_equal(picture.pixels(*key), decode(data, *key))
            assert picture.size == (40, 24)


def test_each_is_decoded_once_and_cannot_be_written_to(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "decode", lambda *a, **k: calls.append(a) or decode(*a, **k))
    for data, times in [(encode("jpeg"), 2), (encode("png"), 1)]:  # a PNG knows no shrinking
        calls.clear()
        picture = Picture.of(Picture(data))
        for _ in range(3):
            assert picture.pixels(3).flags.writeable is False
            picture.pixels(3, 2)
        assert len(calls) == times


def test_an_array_stays_its_owners():
    picture = Picture(RGB)
    assert picture.size == (24, 40) and not picture.scalable
    assert picture.pixels(3, 4).base is not None and np.shares_memory(picture.pixels(3), RGB)
    assert RGB.flags.writeable
    buffer = io.BytesIO()
    np.save(buffer, RGB)
    assert Picture(buffer.getvalue()).size == (24, 40)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0", b"hello", np.zeros(3, np.uint8), RGB[:0]])
def test_what_is_no_picture_raises_bad_image(data):
    with pytest.raises(BadImage):
        _ = Picture(data).size
    with pytest.raises(BadImage):
        Picture(data).pixels(3)
