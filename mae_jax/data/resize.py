"""Resizing with antialiasing: cykooz.resizer (vector instructions, no interpreter lock), or Pillow where it is missing.

Both convolve with the same kernels, widened by the factor of shrinking. On 8 bits they agree to about 55 dB (Pillow
rounds between its two passes, and so does cykooz, in another place); a library without antialiasing gives 25 to 35 dB.
"""

import functools
import threading

import numpy as np
from PIL import Image

from mae_jax.data.libraries import library

Real = float | int  # spelt out for the run-time checker in the tests, to which an int is no float
Part = tuple[Real, Real, Real, Real]

KERNELS = ("bicubic", "bilinear", "lanczos")
_PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_CYKOOZ = {"bicubic": "catmull_rom", "bilinear": "bilinear", "lanczos": "lanczos3"}
_TYPES = {"uint8": "U8", "float32": "F32"}  # its 16-bit path would clip at 0 between the two passes
_TOGETHER = 4  # channels that one call takes


def resize(image: np.ndarray, size: tuple[int, int], part: Part | None = None, resample: str = "bicubic") -> np.ndarray:
    """Bicubic (a = -0.5), bilinear or Lanczos (3 lobes) with antialiasing, whatever the dtype and number of channels.

    Each channel by itself: alpha weights nothing. Everything but uint8 is computed in float32; integers come out in
    their dtype, rounded and clipped, floats as float32.

    Returns: [*size, c], which may be read-only; `image` itself where there is nothing to do.

    Args:
        image: [h, w, c].
        size: (height, width) of the result.
        part: (top, left, height, width), may be fractional: what is resized; default: all of the image.
        resample: "bicubic", "bilinear" or "lanczos".
    """
    h, w, _ = image.shape
    if part is None and (h, w) == tuple(size):
        return image
    part = (0, 0, h, w) if part is None else part
    own = image.dtype
    if own.name not in _TYPES:
        image = image.astype(np.float32)
    out = (_by_pillow if library("cykooz_resizer") is None else _by_cykooz)(image, size, part, resample)
    if own.kind in "iu" and out.dtype != own:
        out = np.clip(np.round(out), np.iinfo(own).min, np.iinfo(own).max).astype(own)
    return out


def _by_cykooz(image: np.ndarray, size: tuple[int, int], part: Part, resample: str) -> np.ndarray:
    h, w, c = image.shape
    if c > _TOGETHER:
        groups = [image[..., i : i + _TOGETHER] for i in range(0, c, _TOGETHER)]
        return np.concatenate([_by_cykooz(group, size, part, resample) for group in groups], axis=2)
    cykooz = library("cykooz_resizer")
    assert cykooz is not None
    kind, kernel = _settings(image.dtype.name, c, resample)
    top, left, height, width = part
    box = None if part == (0, 0, h, w) else cykooz.CropBox(left, top, width, height)
    source = cykooz.ImageData(w, h, kind, image.tobytes())
    target = cykooz.ImageData(size[1], size[0], kind)
    _resizer().resize(source, target, cykooz.ResizeOptions(kernel, crop_box=box, use_alpha=False))
    return np.frombuffer(target.get_buffer(), image.dtype).reshape(*size, c)


_kept = threading.local()


def _resizer():
    """This thread's resizer, whose buffers last: a new one for each image takes as long again as resizing."""
    if not hasattr(_kept, "resizer"):
        cykooz = library("cykooz_resizer")
        assert cykooz is not None
        _kept.resizer = cykooz.Resizer()
    return _kept.resizer


@functools.cache
def _settings(dtype: str, c: int, resample: str):
    """cykooz's (pixel type, algorithm)."""
    cykooz = library("cykooz_resizer")
    assert cykooz is not None
    kind = cykooz.PixelType[_TYPES[dtype] + ("" if c == 1 else f"x{c}")]
    return kind, cykooz.ResizeAlg.convolution(cykooz.FilterType[_CYKOOZ[resample]])


def _by_pillow(image: np.ndarray, size: tuple[int, int], part: Part, resample: str) -> np.ndarray:
    """uint8 with 1, 3 or 4 channels through Pillow's integer path, anything else channel by channel in float32."""
    h, w, c = image.shape
    top, left, height, width = part
    box = (left, top, left + width, top + height)

    def resampled(picture: Image.Image) -> np.ndarray:
        return np.array(picture.resize((size[1], size[0]), _PILLOW[resample], box=box))

    if image.dtype == np.uint8 and c in (1, 3, 4):
        mode = {1: "L", 3: "RGB", 4: "RGBX"}[c]  # RGBX: Pillow would weight the colours of RGBA by alpha
        picture = Image.frombuffer(mode, (w, h), np.ascontiguousarray(image), "raw", mode, 0, 1)
        return resampled(picture).reshape(*size, c)
    planes = [Image.fromarray(np.ascontiguousarray(image[..., i], np.float32)) for i in range(c)]
    out = np.stack([resampled(plane) for plane in planes], axis=-1)
    return np.clip(np.round(out), 0, 255).astype(np.uint8) if image.dtype == np.uint8 else out
