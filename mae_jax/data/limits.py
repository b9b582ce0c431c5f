"""What makes a record unusable: the limits on its size, and one exception for all that codecs raise."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from numbers import Integral

from PIL import Image

MAX_PIXELS = 178_000_000  # of one image, read from its header before anything is decoded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit warns at half of that


MAX_FILE = 1 << 30  # bytes of one encoded record that is read whole (a film in a file of its own is not)
MAX_DECODED = 4 << 30  # bytes of one decoded record
# What Pillow may open. Left out is what nobody trains on, and EPS above all: Pillow has Ghostscript run its PostScript.
COMMON = ("BMP", "GIF", "JPEG", "PNG", "PPM")  # which it knows before it has imported all the others
FORMATS = (*COMMON, "AVIF", "DIB", "ICO", "JPEG2000", "PCX", "SGI", "TGA", "TIFF", "WEBP")


class BadImage(ValueError):
    """An image that cannot be used, with the reason."""


def check_size(h: int, w: int) -> None:
    """Raises BadImage for no pixels, or more than MAX_PIXELS, or what is no number (a TIFF's tags are of any type)."""
    if not (isinstance(h, Integral) and isinstance(w, Integral)):
        raise BadImage("its height and width are not two whole numbers")
    if h * w > MAX_PIXELS:
        raise BadImage(f"its header says {w} x {h} pixels, over the limit of {MAX_PIXELS:,} in all (MAX_PIXELS)")
    if h < 1 or w < 1:
        raise BadImage(f"it has no pixels ({w} x {h})")


def open_image(data: bytes) -> Image.Image:
    """Pillow's picture of a file of one of FORMATS, its header within the limits. Raises BadImage."""
    with reasons():
        try:
            picture = Image.open(io.BytesIO(data), formats=COMMON)
        except Image.UnidentifiedImageError:
            Image.init()
            picture = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
        check_size(picture.height, picture.width)
        return picture


def read_file(path: str | os.PathLike[str], limit: int = MAX_FILE) -> bytes:
    """The bytes of a file. Raises BadImage: no plain file (a device never ends), or more than `limit` bytes."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb", buffering=0) as file:  # two thirds of the time of Path.read_bytes
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("it is no plain file")
        check_bytes(status.st_size, limit)
        return file.read()


def check_bytes(size: int, limit: int = MAX_FILE) -> None:
    """Raises BadImage for a record of more bytes than are read at once."""
    if not 0 <= size <= limit:
        raise BadImage(f"it has {size:,} bytes, over the limit of {limit:,} of one record (MAX_FILE)")


@contextlib.contextmanager
def reasons() -> Iterator[None]:
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
