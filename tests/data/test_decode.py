"""Every kind of file becomes the pixels that were put in."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import decode as module
from mae_jax.data import jpeg, libraries
from mae_jax.data.decode import BadImage, codec, convert, decode, upright_size


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
        (b"", "no known"), (b"hello", "no known"), (whole[: len(whole) // 2], "Premature end"),
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


def waves(h, w):
    """A smooth colour picture with some noise."""
    y, x = np.mgrid[:h, :w]
    base = np.stack([np.sin(x / 5) * np.cos(y / 7), np.cos(x / 9), np.sin((x + y) / 11)], -1) * 100 + 128
    return (base + np.random.default_rng(0).normal(0, 6, base.shape)).clip(0, 255).astype(np.uint8)


KINDS = {
    "4:4:4": ("RGB", {"subsampling": 0}), "4:2:2": ("RGB", {"subsampling": 1}), "4:2:0": ("RGB", {"subsampling": 2}),
    "progressive": ("RGB", {"progressive": True}), "grey": ("L", {}), "cmyk": ("CMYK", {}),
    "rgb stored as rgb": ("RGB", {"keep_rgb": True}), "restart markers": ("RGB", {"restart_marker_blocks": 2}),
    "optimised": ("RGB", {"optimize": True, "quality": 30}),
}  # fmt: skip


def by_pillow(data, channels, shrink=1, monkeypatch=None):
    """`decode` on a machine without simplejpeg."""
    with monkeypatch.context() as patch:
        patch.setattr(jpeg, "library", lambda name: None)
        return decode(data, channels, shrink)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(48, 64), (37, 53), (8, 17)])
def test_a_jpeg_is_pillows_from_simplejpeg_too(kind, size, monkeypatch):
    """Both stand on libjpeg-turbo; 1 is for builds of another version."""
    pytest.importorskip("simplejpeg")
    mode, options = KINDS[kind]
    data = encode(Image.fromarray(waves(*size)).convert(mode), "jpeg", **options)
    assert jpeg.decodable(data, jpeg.read_header(data))
    for channels in (1, 2, 3, 4):
        for shrink in (1, 2, 4, 8):
            ours = decode(data, channels, shrink)
            theirs = by_pillow(data, channels, shrink, monkeypatch)
            assert ours.shape == theirs.shape and abs(ours.astype(int) - theirs).max() <= 1
    assert upright_size(data) == size


@pytest.mark.parametrize("subsampling", ["440", "411", "422", "420"])
def test_rarer_subsampling_is_pillows_too(subsampling, monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    data = simplejpeg.encode_jpeg(waves(45, 61), colorsubsampling=subsampling)
    assert abs(decode(data, 3).astype(int) - by_pillow(data, 3, monkeypatch=monkeypatch)).max() <= 1


def test_quick_transforms_stay_near_the_accurate_ones():
    pytest.importorskip("simplejpeg")
    from sklearn.datasets import load_sample_image

    data = encode(Image.fromarray(load_sample_image("china.jpg")), "jpeg", quality=90)
    error = np.mean((decode(data, 3, exact=False).astype(float) - decode(data, 3)) ** 2)
    assert 0 < error < 255**2 / 10**4.0  # 40 dB


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "grey", "cmyk", "restart markers"])
def test_a_truncated_jpeg_always_raises(kind):
    pytest.importorskip("simplejpeg")
    mode, options = KINDS[kind]
    data = encode(Image.fromarray(waves(90, 120)).convert(mode), "jpeg", **options)
    for length in [*range(2, len(data) - 1, max(1, len(data) // 150)), len(data) - 2, len(data) - 1]:
        with pytest.raises(BadImage):
            decode(data[:length], 3)


def test_changed_bytes_raise_bad_image_or_give_a_picture_of_the_header_size():
    pytest.importorskip("simplejpeg")
    data = encode(Image.fromarray(waves(90, 120)), "jpeg")
    g, raised = np.random.default_rng(0), 0
    for _ in range(300):
        broken = bytearray(data)
        broken[int(g.integers(len(data)))] ^= int(g.integers(1, 256))
        try:
            assert decode(bytes(broken), 3).shape[:2] == upright_size(bytes(broken))
        except BadImage:
            raised += 1
    assert 20 < raised < 300


def test_a_few_bytes_of_padding_before_the_end_are_no_corruption():
    pytest.importorskip("simplejpeg")
    data = encode(Image.fromarray(waves(30, 40)), "jpeg")
    np.testing.assert_array_equal(decode(data[:-2] + bytes(4) + data[-2:], 3), decode(data, 3))
    with pytest.raises(BadImage, match="extraneous"):
        decode(data[:-2] + bytes(400) + data[-2:], 3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_what_pillow_reads(order, orientation):
    """Also 0 and 9, which mean nothing."""
    stored = encode(Image.fromarray(waves(10, 20)), "jpeg")
    entries = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    make = struct.pack(order + "HHII", 0x010F, 2, 4, 0x61626300)  # another entry before it
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 2) + make + entries + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    data = stored[:2] + segment + stored[2:]
    theirs = Image.open(io.BytesIO(data)).getexif().get(0x0112, 1)
    assert theirs == orientation
    assert jpeg.read_header(data).orientation == (orientation if 1 <= orientation <= 8 else 1)
    for length in range(4, len(tiff), 3):  # broken EXIF says nothing
        cut = b"\xff\xe1" + struct.pack(">H", length + 8) + b"Exif\0\0" + tiff[:length]
        assert jpeg.read_header(stored[:2] + cut + stored[2:]).orientation in (1, orientation)


def test_orientation_of_xmp_counts_where_exif_is_silent():
    stored = encode(Image.fromarray(waves(10, 20)), "jpeg")
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    data = stored[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + stored[2:]
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert upright_size(data) == (20, 10) and decode(data, 3).shape == (20, 10, 3)


@pytest.mark.parametrize("length", [2, 3, 4, 10])
def test_a_header_that_ends_early_or_lies_is_a_bad_image(length):
    with pytest.raises(BadImage):
        jpeg.read_header(b"\xff\xd8\xff\xe0\x00\x10JFIF\0"[:length])
    with pytest.raises(BadImage, match="names no size"):
        jpeg.read_header(b"\xff\xd8\xff\xd9\0\0\0\0")
    huge = b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(9) + b"\xff\xda\0\x08" + bytes(9)
    with pytest.raises(BadImage, match="178,000,000"):
        decode(huge, 3)


def test_sixteen_bit_colour_keeps_its_depth():
    cv2, tifffile = pytest.importorskip("cv2"), pytest.importorskip("tifffile")
    deep = np.random.default_rng(0).integers(0, 65536, (6, 9, 4), np.uint16)
    png = cv2.imencode(".png", deep[..., [2, 1, 0]])[1].tobytes()
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, deep[..., :3], photometric="rgb")
    for data in (png, buffer.getvalue()):
        np.testing.assert_array_equal(decode(data, 3), deep[..., :3])
        luma = deep[..., :3] @ np.array([0.299, 0.587, 0.114])
        assert abs(decode(data, 1)[..., 0] - luma).max() <= 0.5
        assert upright_size(data) == (6, 9)
    rgba = cv2.imencode(".png", deep[..., [2, 1, 0, 3]])[1].tobytes()
    np.testing.assert_array_equal(decode(rgba, 4), deep)
    np.testing.assert_array_equal(decode(rgba, 3), deep[..., :3])


def test_sixteen_bit_colour_is_refused_where_the_library_is_missing(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    data = cv2.imencode(".png", np.ones((4, 5, 3), np.uint16))[1].tobytes()
    monkeypatch.setattr(module, "library", lambda name: None)
    with pytest.raises(BadImage, match="pip install opencv"):
        decode(data, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pages_planes_and_samples_of_a_tiff_are_channels(dtype):
    tifffile = pytest.importorskip("tifffile")
    stack = (np.random.default_rng(0).random((7, 12, 10)) * 200).astype(dtype)

    def tiff(array, **options):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, photometric="minisblack", **options)
        return buffer.getvalue()

    wanted = np.moveaxis(stack, 0, -1)
    for data in (tiff(stack), tiff(stack, planarconfig="separate"), tiff(wanted, planarconfig="contig")):
        out = decode(data, 7)
        assert out.dtype == dtype and upright_size(data) == (12, 10)
        np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(decode(tiff(stack), 1)[..., 0], stack[0])  # the first page alone
    np.testing.assert_array_equal(decode(tiff(stack[:3]), 3), wanted[..., :3])
    with pytest.raises(BadImage, match="5 are wanted"):
        decode(tiff(stack), 5)
    whole = tiff(stack)
    with pytest.raises(BadImage):
        decode(whole[: len(whole) // 2], 7)


def test_an_animation_is_its_first_frame():
    frames = [Image.fromarray(np.full((4, 5), v, np.uint8)) for v in (10, 200)]
    data = encode(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (decode(data, 1) == 10).all()


def test_codec_names_what_is_in_use(monkeypatch):
    pytest.importorskip("simplejpeg")
    import simplejpeg

    assert codec()["jpeg"] == f"simplejpeg {simplejpeg.__version__}"
    real = libraries.library
    monkeypatch.setattr(libraries, "library", lambda name: real(name) if name == "PIL" else None)
    assert codec()["jpeg"].startswith("pillow") and "pip install simplejpeg" in codec()["jpeg"]
    assert codec()["16-bit colour png"].startswith("none")
