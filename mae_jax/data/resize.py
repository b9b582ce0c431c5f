"""Resizing with antialiasing: cykooz.resizer (vector instructions, no interpreter lock), or Pillow where it is missing.

Both convolve with the same kernels, widened by the factor of shrinking. On 8 bits they agree to about 55 dB (Pillow
rounds between its two passes, and so does cykooz, in another place); a library without antialiasing gives 25 to 35 dB.
"""

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
_TYPES = {"uint8": "U8", "uint16": "U16", "float32": "F32"}
_TOGETHER = 4  # channels that one call takes


def resize(image: np.ndarray, size: tuple[int, int], part: Part | None = None, resample: str = "bicubic") -> np.ndarray:
    """Bicubic (a = -0.5), bilinear or Lanczos (3 lobes) with antialiasing, whatever the dtype and number of channels.

    Each channel by itself: alpha weights nothing. uint8, uint16 and float32 as they are; other floats come out as
    float32, other integers in their dtype, rounded and clipped.

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
    c = image.shape[2]
    if c > _TOGETHER:
        groups = [image[..., i : i + _TOGETHER] for i in range(0, c, _TOGETHER)]
        return np.concatenate([_by_cykooz(group, size, part, resample) for group in groups], axis=2)
    library_ = library("cykooz_resizer")
    assert library_ is not None
    kind = library_.PixelType[_TYPES[image.dtype.name] + ("" if c == 1 else f"x{c}")]
    top, left, height, width = part
    options = library_.ResizeOptions(
        library_.ResizeAlg.convolution(library_.FilterType[_CYKOOZ[resample]]),
        crop_box=library_.CropBox(left, top, width, height),
        use_alpha=False,
    )
    source = library_.ImageData(image.shape[1], image.shape[0], kind, image.tobytes())
    target = library_.ImageData(size[1], size[0], kind)
    library_.Resizer().resize(source, target, options)
    return np.frombuffer(bytearray(target.get_buffer()), image.dtype).reshape(*size, c)


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
    if image.dtype.kind == "f":
        return out
    return np.clip(np.round(out), 0, np.iinfo(image.dtype).max).astype(image.dtype)
