"""Encoded bytes or an array -> an image [h, w, c] with the channels that were asked for."""

import struct

import numpy as np
from PIL import Image

from mae_jax.core import npy
from mae_jax.data import jpeg, tiff
from mae_jax.data.jpeg import is_jpeg
from mae_jax.data.libraries import codec, library
from mae_jax.data.limits import MAX_PIXELS, BadImage, check_size, open_image, reasons

__all__ = ["MAX_PIXELS", "BadImage", "codec", "convert", "decode", "is_jpeg", "upright", "upright_size"]

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by number of channels: grey is luma (ITU-R 601)
STORED = {1: "L", 3: "RGB", 4: "CMYK"}  # what a JPEG of so many components holds
SCALE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # the value that stands for white
LUMA = np.array([0.299, 0.587, 0.114])


def decode(
    data: bytes | np.ndarray,
    channels: int,
    shrink: int = 1,
    exact: bool = True,
    header: jpeg.Header | None = None,
) -> np.ndarray:
    """An upright image [h, w, channels] of uint8, uint16 (16-bit files) or float32 (float files and arrays).

    Files: grey, RGB, palette, CMYK (stored inverted, as Adobe does) and 1-bit become luma (1 channel), RGB (3), or
    these with alpha (2, 4); alpha is dropped from the first two. Of an animation the first frame is taken. A
    TIFF's pages, planes or samples become the channels when there are as many (tifffile); 16-bit colour keeps its
    depth in TIFF (tifffile) and PNG (opencv), and is refused where the library is missing. Arrays (.npy bytes too) must
    have the channels asked for.

    A JPEG comes out the same from simplejpeg as from Pillow, but simplejpeg also refuses what libjpeg only warns of:
    a truncated or visibly corrupt file is a BadImage and never a picture that ends in grey.

    Args:
        data: an encoded file, or an array [h, w] or [h, w, c].
        channels: wanted number of channels.
        shrink: 1, 2, 4 or 8: a JPEG is decoded at 1/shrink of its size (averages in the DCT); others ignore it.
        exact: False lets simplejpeg take the quick transforms for a JPEG (data/jpeg.py says what they cost).
        header: what `jpeg.read_header(data)` gave, where it is known.

    Raises: BadImage, whatever the codec raised.
    """
    if isinstance(data, np.ndarray):
        return _array(data, channels)
    with reasons():
        if data.startswith(b"\x93NUMPY"):
            return _array(_npy(data), channels)
        if is_jpeg(data):
            header = header or jpeg.read_header(data)
            if jpeg.decodable(data, header):
                return _jpeg(data, channels, shrink, exact, header)
        elif tiff.is_tiff(data):
            return _tiff(data, channels)
        with open_image(data) as picture:
            if _deep_png(data) and channels in MODES:
                return upright(_shape_channels(_by_opencv(data), channels), _orientation(picture))
            return _by_pillow(picture, channels, shrink)


def upright_size(data: bytes) -> tuple[int, int]:
    """(h, w) that `decode` will give, from the header. Raises BadImage."""
    with reasons():
        if is_jpeg(data):
            return jpeg.read_header(data).upright
        if data.startswith(b"\x93NUMPY"):
            return _npy_size(data)
        if tiff.is_tiff(data):
            h, w, orientation = tiff.stored_size(data)
        else:
            with open_image(data) as picture:
                h, w, orientation = picture.height, picture.width, _orientation(picture)
        return (w, h) if orientation >= 5 else (h, w)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """[h, w, c] as stored -> as it is meant to be seen, by its EXIF orientation (CIPA DC-008, tag 0x0112)."""
    if orientation == 1:
        return image
    if orientation >= 5:  # rows are columns
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def convert(image: np.ndarray, dtype: str) -> np.ndarray:
    """The same picture as `dtype`, white staying white: uint8 255 = uint16 65535 = float32 1.0.

    Raises: BadImage for float to integer, since the range that a float image uses is not known.
    """
    if image.dtype == dtype:
        return image
    if image.dtype == np.float32:
        raise BadImage(f"it holds float32 pixels where the other images hold {dtype}")
    white = SCALE[dtype] / SCALE[image.dtype.name]
    if dtype == "float32":
        return image.astype(np.float32) * np.float32(white)
    return np.round(image.astype(np.float32) * white).astype(dtype)


def _jpeg(data: bytes, channels: int, shrink: int, exact: bool, header: jpeg.Header) -> np.ndarray:
    if channels not in MODES:
        raise _too_many(STORED[header.components], channels)
    image = upright(jpeg.pixels(data, header, shrink, exact), header.orientation)
    stored = STORED[header.components]
    if stored == MODES[channels]:
        return image
    if (stored, channels) == ("L", 3):
        return np.repeat(image, 3, axis=2)
    return _pixels(Image.fromarray(image[..., 0] if stored == "L" else image, stored), channels)


def _tiff(data: bytes, channels: int) -> np.ndarray:
    if channels in MODES:
        try:
            with open_image(data) as picture:
                if not tiff.beyond_pillow(picture, channels):
                    return _by_pillow(picture, channels)
        except BadImage:
            pass  # more samples, or deeper ones, than Pillow knows
    image, orientation = tiff.read(data, channels)
    reshaped = image.shape[2] != channels and image.shape[2] <= 4 and image.dtype in (np.uint8, np.uint16)
    if channels in MODES and reshaped:
        image = _shape_channels(image, channels)
    return upright(_array(image, channels), orientation)


def _by_pillow(picture: Image.Image, channels: int, shrink: int = 1) -> np.ndarray:
    if shrink > 1:
        picture.draft(None, (max(1, picture.width // shrink), max(1, picture.height // shrink)))
    picture.load()  # which turns a TIFF by itself, so that the orientation must be asked for after it
    return upright(_pixels(picture, channels), _orientation(picture))


def _orientation(picture: Image.Image) -> int:
    try:
        found = int(picture.getexif().get(0x0112, 1))
    except (AttributeError, KeyError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1  # an EXIF block that cannot be read says nothing about the pixels
    return found if 1 <= found <= 8 else 1


def _pixels(picture: Image.Image, channels: int) -> np.ndarray:
    """A loaded picture of any mode as [h, w, channels]."""
    if channels not in MODES:
        raise _too_many(picture.mode, channels)
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep(np.asarray(picture), channels)
    if picture.mode in ("P", "PA"):  # RGBA keeps what a palette says about transparency
        picture = picture.convert("RGBA")
    if picture.mode != MODES[channels]:
        picture = picture.convert(MODES[channels])
    image = np.array(picture)
    return image if image.ndim == 3 else image[..., None]


def _too_many(mode: str, channels: int) -> BadImage:
    return BadImage(f"it is a {mode} picture and {channels} channels are wanted, which only .npy and TIFF can hold")


def _deep(grey: np.ndarray, channels: int) -> np.ndarray:
    """16-bit, 32-bit and float grey [h, w]; colour channels repeat it."""
    if channels in (2, 4):
        raise BadImage(f"it is a {grey.dtype} grey picture without the alpha that {channels} channels want")
    if grey.dtype.kind == "f":
        grey = _finite(grey.astype(np.float32))
    elif grey.min() < 0 or grey.max() > 65535:
        raise BadImage(f"its 32-bit pixels lie in {grey.min()}..{grey.max()}: 0..65535 expected")
    else:
        grey = grey.astype(np.uint16)
    return np.repeat(grey[..., None], channels, axis=2)


def _deep_png(data: bytes) -> bool:
    """A PNG of 16 bits in colour or with alpha, which Pillow would reduce to 8."""
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10" and data[25:26] in (b"\x02", b"\x04", b"\x06")


def _by_opencv(data: bytes) -> np.ndarray:
    """[h, w, 3 or 4] uint16, RGB or RGBA."""
    cv2 = library("cv2")
    if cv2 is None:
        raise BadImage("it is a 16-bit colour PNG, which needs opencv: pip install opencv-python-headless")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.dtype != np.uint16:
        raise BadImage("it cannot be decoded (opencv does not read its 16-bit pixels)")
    return np.ascontiguousarray(image[..., [2, 1, 0, 3][: image.shape[2]]])


def _shape_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Integer grey or RGB, with alpha or not -> luma (1), RGB (3), or these with alpha (2, 4; else opaque)."""
    has_alpha = image.shape[2] in (2, 4)
    colour, alpha = (image[..., :-1], image[..., -1:]) if has_alpha else (image, None)
    if channels <= 2 and colour.shape[2] == 3:
        colour = np.round(colour @ LUMA)[..., None].astype(image.dtype)
    elif channels >= 3 and colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    if channels in (1, 3):
        return np.ascontiguousarray(colour)
    if alpha is None:
        alpha = np.full_like(image[..., :1], np.iinfo(image.dtype).max)
    return np.concatenate([colour, alpha], axis=2)


def _npy(data: bytes) -> np.ndarray:
    check_size(*_npy_size(data))
    return npy.array(data)


def _npy_size(data: bytes) -> tuple[int, int]:
    """(h, w) as the header says, whatever follows it."""
    shape = npy.layout(data, 2**62).shape
    return (shape[0], shape[1]) if len(shape) > 1 else (0, 0)


def _array(array: np.ndarray, channels: int) -> np.ndarray:
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or 0 in image.shape:
        raise BadImage(f"its shape is {array.shape}: [h, w] or [h, w, c] expected")
    if image.shape[2] != channels:
        raise BadImage(f"its shape is {array.shape}, so {image.shape[2]} channels, and {channels} are wanted")
    check_size(*image.shape[:2])
    if image.dtype.kind == "f":
        return _finite(image.astype(np.float32))
    if image.dtype == bool:
        return image * np.uint8(255)
    if image.dtype not in (np.uint8, np.uint16):
        raise BadImage(f"its dtype is {image.dtype}: uint8, uint16, float or bool expected")
    return image


def _finite(image: np.ndarray) -> np.ndarray:
    if not np.isfinite(image).all():
        raise BadImage("it holds NaN or infinite pixels")
    return image
