"""Encoded bytes or an array -> an image [h, w, c] with the channels that were asked for."""

import contextlib
import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

MAX_PIXELS = 178_000_000  # of one image, read from its header before anything is decoded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit warns at half of that

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by number of channels: grey is luma (ITU-R 601)
SCALE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # the value that stands for white

# What brings an image upright, by its EXIF orientation (CIPA DC-008, tag 0x0112)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):
    """An image that cannot be used, with the reason."""


def decode(data: bytes | np.ndarray, channels: int, shrink: int = 1) -> np.ndarray:
    """An upright image [h, w, channels] of uint8, uint16 (16-bit grey files) or float32 (float files and arrays).

    Files: grey, RGB, palette, CMYK and 1-bit become luma (1 channel), RGB (3) or RGBA (4); alpha is dropped from the
    first two. Arrays (.npy bytes too) must have the channels asked for.

    Args:
        data: an encoded file, or an array [h, w] or [h, w, c].
        channels: wanted number of channels.
        shrink: 1, 2, 4 or 8: a JPEG is decoded at 1/shrink of its size (averages in the DCT); others ignore it.

    Raises: BadImage, whatever the codec raised.
    """
    if isinstance(data, np.ndarray):
        return _array(data, channels)
    if data.startswith(b"\x93NUMPY"):
        return _array(_npy(data), channels)
    with _reasons(), _open(data) as picture:
        if shrink > 1:
            picture.draft(None, (max(1, picture.width // shrink), max(1, picture.height // shrink)))
        picture.load()
        picture = _upright(picture)
        return _pixels(picture, channels)


def upright_size(data: bytes) -> tuple[int, int]:
    """(h, w) that `decode` will give for a JPEG, from its header. Raises BadImage."""
    with _reasons(), _open(data) as picture:
        turned = _orientation(picture) >= 5
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def is_jpeg(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8\xff")


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


def _open(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    _check_size(picture.height, picture.width)
    return picture


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Codecs raise many kinds of errors for broken data; all of them mean one thing here."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImage("its bytes are of no known image format") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage(f"its header is over the limit of {MAX_PIXELS:,} pixels (MAX_PIXELS)") from error
    except Exception as error:
        raise BadImage(f"it cannot be decoded ({type(error).__name__}: {error})") from error


def _check_size(h: int, w: int) -> None:
    if h * w > MAX_PIXELS:
        raise BadImage(f"its header says {w} x {h} pixels, over the limit of {MAX_PIXELS:,} in all (MAX_PIXELS)")
    if not h * w:
        raise BadImage(f"it has no pixels ({w} x {h})")


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(0x0112, 1))
    except (AttributeError, KeyError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1  # an EXIF block that cannot be read says nothing about the pixels


def _upright(picture: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _pixels(picture: Image.Image, channels: int) -> np.ndarray:
    """A loaded picture of any mode as [h, w, channels]."""
    if channels not in MODES:
        raise BadImage(f"it is a {picture.mode} picture and {channels} channels are wanted, which only .npy can hold")
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep(np.asarray(picture), channels)
    if picture.mode in ("P", "PA"):  # RGBA keeps what a palette says about transparency
        picture = picture.convert("RGBA")
    if picture.mode != MODES[channels]:
        picture = picture.convert(MODES[channels])
    image = np.array(picture)
    return image if image.ndim == 3 else image[..., None]


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


def _npy(data: bytes) -> np.ndarray:
    with _reasons():
        file = io.BytesIO(data)
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            _check_size(*(shape[:2] if len(shape) > 1 else (0, 0)))
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _array(array: np.ndarray, channels: int) -> np.ndarray:
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or 0 in image.shape:
        raise BadImage(f"its shape is {array.shape}: [h, w] or [h, w, c] expected")
    if image.shape[2] != channels:
        raise BadImage(f"its shape is {array.shape}, so {image.shape[2]} channels, and {channels} are wanted")
    _check_size(*image.shape[:2])
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
