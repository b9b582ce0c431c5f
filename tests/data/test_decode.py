"""Every kind of file becomes the pixels that were put in."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import decode as module
from mae_jax.data.decode import BadImage, convert, decode, upright_size


def encode(picture, fmt="png", **options):
    buffer = io.BytesIO()
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
LUMA = (RGB @ np.array([0.299, 0.587, 0.114])).round()


@pytest.mark.parametrize("fmt", ["png", "bmp", "tiff", "webp"])
def test_lossless_files_give_their_pixels_and_their_luma(fmt):
    data = encode(Image.fromarray(RGB), fmt, **({"lossless": True} if fmt == "webp" else {}))
    np.testing.assert_array_equal(decode(data, 3), RGB)
    assert abs(decode(data, 1)[..., 0] - LUMA).max() <= 1
    assert decode(data, 4).shape == (6, 9, 4) and (decode(data, 4)[..., 3] == 255).all()


def test_palette_one_bit_alpha_and_gif():
    rgba = np.dstack([RGB, np.full((6, 9), 7, np.uint8)])
    np.testing.assert_array_equal(decode(encode(Image.fromarray(rgba)), 3), RGB)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(rgba)), 4), rgba)
    two = np.array([[0, 255], [255, 0]], np.uint8)
    one_bit = Image.fromarray(two).convert("1")
    np.testing.assert_array_equal(decode(encode(one_bit), 1)[..., 0], two)
    palette = Image.fromarray(np.repeat(two[..., None], 3, 2)).quantize(2)
    for data in (encode(palette, transparency=b"\x07\xff"), encode(palette, "gif"), encode(palette, "tiff")):
        np.testing.assert_array_equal(decode(data, 3)[..., 1], two)


def test_cmyk_jpeg_is_rgb():
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    image = decode(encode(flat.convert("CMYK"), "jpeg", quality=100), 3)
    assert abs(image.astype(int) - [[[200, 40, 90]]]).max() <= 3


def test_sixteen_bit_and_float_files_keep_their_depth():
    deep = (np.arange(54).reshape(6, 9) * 1200).astype(np.uint16)
    out = decode(encode(Image.fromarray(deep)), 3)
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out, np.repeat(deep[..., None], 3, 2))
    real = np.linspace(-1, 4, 54, dtype=np.float32).reshape(6, 9)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(real), "tiff"), 1)[..., 0], real)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["png", "jpeg", "tiff"])
def test_exif_orientation_is_undone(orientation, fmt):
    """A grey ramp, dark at the top left and lightest at the bottom right, stored in the eight ways of EXIF."""
    upright = (np.add.outer(np.arange(16) * 8, np.arange(24) * 3)).astype(np.uint8)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if fmt == "jpeg" else {}
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), fmt, exif=exif, **options)
    image = decode(data, 1)[..., 0]
    assert image.shape == (16, 24)
    assert abs(image.astype(int) - upright).max() <= (3 if fmt == "jpeg" else 0)
    if fmt == "jpeg":
        assert upright_size(data) == (16, 24)


def test_npy_bytes_and_arrays_must_have_the_channels():
    for dtype in (np.uint8, np.uint16, np.float32):
        array = np.ones((4, 5, 6), dtype)
        buffer = io.BytesIO()
        np.save(buffer, array)
        np.testing.assert_array_equal(decode(buffer.getvalue(), 6), array)
        assert decode(array, 6).dtype == dtype
        with pytest.raises(BadImage, match=r"\(4, 5, 6\), so 6 channels, and 3 are wanted"):
            decode(array, 3)
    assert decode(np.zeros((4, 5), np.float64), 1).dtype == np.float32
    assert decode(np.ones((4, 5), bool), 1).max() == 255
    with pytest.raises(BadImage, match="int64"):
        decode(np.zeros((4, 5), np.int64), 1)
    with pytest.raises(BadImage, match="NaN"):
        decode(np.full((4, 5), np.nan), 1)


def png_header(w, h):
    """A PNG that claims w x h and has no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [14000, 60000])
def test_a_header_over_the_limit_is_refused_before_decoding(side):
    with pytest.raises(BadImage, match="178,000,000"):
        decode(png_header(side, side), 3)


def test_an_npy_header_over_the_limit_is_refused_before_reading():
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": (20000, 20000, 3), "fortran_order": False, "descr": "|u1"})
    with pytest.raises(BadImage, match="178,000,000"):
        decode(buffer.getvalue(), 3)


def test_broken_bytes_are_bad_images():
    whole = encode(Image.fromarray(np.tile(RGB, (20, 20, 1))), "jpeg")
    for data, word in [
        (b"", "no known"), (b"hello", "no known"), (whole[: len(whole) // 2], "cannot be decoded"),
        (b"\x93NUMPY\x01", "cannot be decoded"),
    ]:  # fmt: skip
        with pytest.raises(BadImage, match=word):
            decode(data, 3)
    with pytest.raises(BadImage, match="5 channels"):
        decode(whole, 5)


def test_convert_keeps_white_white():
    image = np.array([[[0], [128], [255]]], np.uint8)
    np.testing.assert_array_equal(convert(convert(image, "uint16"), "uint8"), image)
    assert convert(image, "uint16").max() == 65535
    np.testing.assert_allclose(convert(image, "float32"), image / np.float32(255), rtol=1e-6)
    with pytest.raises(BadImage, match="float32"):
        convert(np.zeros((1, 1, 1), np.float32), "uint8")


def test_pillows_own_limit_does_not_warn_below_ours():
    assert Image.MAX_IMAGE_PIXELS == module.MAX_PIXELS
