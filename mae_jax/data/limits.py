"""What makes an image unusable: the limit on its size, and one exception for all that codecs raise."""

import contextlib
from collections.abc import Iterator

from PIL import Image

MAX_PIXELS = 178_000_000  # of one image, read from its header before anything is decoded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own limit warns at half of that


class BadImage(ValueError):
    """An image that cannot be used, with the reason."""


def check_size(h: int, w: int) -> None:
    """Raises BadImage for no pixels, or more than MAX_PIXELS."""
    if h * w > MAX_PIXELS:
        raise BadImage(f"its header says {w} x {h} pixels, over the limit of {MAX_PIXELS:,} in all (MAX_PIXELS)")
    if h < 1 or w < 1:
        raise BadImage(f"it has no pixels ({w} x {h})")


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
