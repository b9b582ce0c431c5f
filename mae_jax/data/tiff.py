"""TIFF beyond Pillow: several pages, planes or many samples as channels, 16-bit and float colour. By tifffile."""

import io
from types import ModuleType

import numpy as np
from PIL import Image

from mae_jax.data.libraries import library
from mae_jax.data.limits import MAX_DECODED, BadImage, check_size, open_image

_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # classic and BigTIFF, both byte orders
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _SAMPLES = 256, 257, 258, 274, 277  # tags of TIFF 6.0


def is_tiff(data: bytes) -> bool:
    return data.startswith(_MAGIC)


def beyond_pillow(picture: Image.Image, channels: int) -> bool:
    """Whether the pixels wanted of a TIFF are not those that Pillow gives."""
    tags = getattr(picture, "tag_v2", {})
    deep_colour = max(tags.get(_BITS, (1,))) > 8 and tags.get(_SAMPLES, 1) > 1
    pages = getattr(picture, "n_frames", 1)
    as_channels = channels > 1 and pages == channels and len(picture.getbands()) == 1
    return deep_colour or as_channels


def stored_size(data: bytes) -> tuple[int, int, int]:
    """(height, width, orientation) of the first page as stored, from its tags."""
    if library("tifffile") is not None:
        with _tifffile().TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            h, w, orientation = page.imagelength, page.imagewidth, _turn(page)
    else:
        with open_image(data) as picture:
            tags = picture.tag_v2  # type: ignore[attr-defined]
            h, w, orientation = tags[_HEIGHT], tags[_WIDTH], tags.get(_ORIENTATION, 1)
    check_size(h, w)
    return h, w, orientation


def read(data: bytes, channels: int) -> tuple[np.ndarray, int]:
    """([h, w, c] as stored, orientation): the first page if it has `channels` samples, else pages as channels.

    A page of another number of samples comes back as it is, for the caller to convert or refuse.

    Raises: BadImage, and what tifffile raises for broken data.
    """
    with _tifffile().TiffFile(io.BytesIO(data)) as file:
        first = file.pages[0]
        check_size(first.imagelength, first.imagewidth)
        image = _page(first)
        if image.shape[2] == 1 and channels > 1 and len(file.pages) == channels:
            image = np.concatenate([_page(page) for page in file.pages], axis=2)
        return image, _turn(first)


def _tifffile() -> ModuleType:
    tifffile = library("tifffile")
    if tifffile is None:
        raise BadImage("it is a TIFF of several pages or bands or of deep colour, which needs tifffile: pip install "
                       "tifffile")  # fmt: skip
    return tifffile


def _turn(page) -> int:
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None and 1 <= int(tag.value) <= 8 else 1


def _page(page) -> np.ndarray:
    """[h, w, samples]; the planes of a planar file are its samples."""
    if page.photometric.name not in ("MINISBLACK", "RGB"):
        raise BadImage(f"it is a TIFF of {page.photometric.name} pixels with several pages or bands or of deep colour; "
                       "MINISBLACK and RGB are read")  # fmt: skip
    check_size(page.imagelength, page.imagewidth)  # of each page anew: they may differ
    if page.imagedepth != 1 or not 0 < page.nbytes <= MAX_DECODED:
        raise BadImage(f"its page claims {page.nbytes:,} bytes, over the limit of {MAX_DECODED:,} (MAX_DECODED)")
    image = page.asarray()
    if page.axes == "YX":
        return image[..., None]
    if page.axes == "YXS":
        return image
    if page.axes == "SYX":
        return np.ascontiguousarray(np.moveaxis(image, 0, -1))
    raise BadImage(f"it is a TIFF with the axes {page.axes}; YX, YXS and SYX (rows, columns, samples) are read")
