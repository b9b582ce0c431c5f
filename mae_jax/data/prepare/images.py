"""One record of a source -> the tf.train.Example that is written, and the moments of its pixels."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.decode import MODES, SCALE, BadImage, convert, decode, is_jpeg, upright_size
from mae_jax.data.examples import write_example
from mae_jax.data.moments import Moments
from mae_jax.data.transforms import jpeg_shrink, resize

FORMATS = ("keep", "jpeg", "raw")
SUBSAMPLING = 2  # 4:2:0, the usual one
FOREIGN = (b"\x93NUMPY",)  # image files of ours that TFDS cannot decode


@dataclass(frozen=True)
class Format:
    """How images are stored.

    Attributes:
        kind: "keep": an encoded file as it is; one that `short_side` shrinks is encoded anew, JPEG as JPEG and
            anything else as PNG. "jpeg": every image as a JPEG. "raw": pixels.
        short_side: images with a longer short side are shrunk to it (bicubic, antialiased); 0: none. Never enlarged.
        quality: of JPEGs, 1 to 95 (Pillow's scale).
        channels: of the images; dtype: of raw pixels.
    """

    kind: str = "keep"
    short_side: int = 0
    quality: int = 90
    channels: int = 3
    dtype: str = "uint8"

    def check(self) -> None:
        """Raises UserError for values that do not fit."""
        if self.kind not in FORMATS:
            raise UserError(f"--format {self.kind} is unknown. {nearest(self.kind, FORMATS)}")
        if not 1 <= self.quality <= 95:
            raise UserError(f"--quality {self.quality}: a number from 1 to 95 expected.")
        if self.short_side < 0:
            raise UserError(f"--short-side {self.short_side}: a number of pixels expected, or 0 to leave sizes alone.")
        if self.kind != "raw" and self.channels not in (1, 3):
            raise UserError(f"Images of {self.channels} channels are kept by --format raw alone (--channels 1 or 3 for "
                            f"--format {self.kind}).")  # fmt: skip

    def __call__(self, record: Mapping[str, Any], labelled: bool) -> tuple[bytes, Moments]:
        """(the Example, the moments of its pixels). Raises BadImage; UserError for records that are not only images."""
        other = set(record) - {"image", "label"}
        if other or "image" not in record:
            raise UserError(
                f"The records hold {', '.join(map(repr, sorted(record)))}: `mae_jax prepare` writes images and their "
                "labels, nothing else."
            )
        features: dict[str, Any] = {"label": np.array([record["label"]])} if labelled else {}
        data = record["image"]
        pixels, shrunk = self._pixels(data)
        if self.kind == "raw":
            pixels = convert(pixels, self.dtype)
            features["image/shape"] = np.array(pixels.shape)
            features["image/value"] = np.ascontiguousarray(pixels).tobytes()
            return write_example(features), Moments.of(pixels)
        if self.kind == "keep" and not shrunk:
            if isinstance(data, np.ndarray) or data.startswith(FOREIGN):
                raise BadImage("it is an array and no encoded file: --format raw writes arrays")
            return write_example(features | {"image": data}), Moments.of(pixels)
        file = self._encoded(pixels, "jpeg" if self.kind == "jpeg" or is_jpeg(_head(data)) else "png")
        return write_example(features | {"image": file}), Moments.of(decode(file, self.channels))

    def _pixels(self, data: bytes | np.ndarray) -> tuple[np.ndarray, bool]:
        """(the image at the size at which it is written, whether that is another size than its own)."""
        if isinstance(data, bytes) and is_jpeg(data) and self.short_side:
            h, w = upright_size(data)
            size = self._size(h, w)
            image = decode(data, self.channels, jpeg_shrink((0, 0, h, w), size))
        else:
            image = decode(data, self.channels)
            h, w = image.shape[:2]
            size = self._size(h, w)
        return resize(image, size), size != (h, w)

    def _size(self, h: int, w: int) -> tuple[int, int]:
        """(h, w) with the short side shrunk, the long side rounded."""
        short = min(h, w)
        if not self.short_side or short <= self.short_side:
            return h, w
        return (max(1, round(h * self.short_side / short)), max(1, round(w * self.short_side / short)))

    def _encoded(self, image: np.ndarray, kind: str) -> bytes:
        if image.dtype == np.float32 or (kind == "jpeg" and image.dtype != np.uint8):
            raise BadImage(f"it holds {image.dtype} pixels, which {kind.upper()} cannot: --format raw keeps them")
        if image.dtype == np.uint16 and self.channels != 1:
            if (image != image[..., :1]).any():
                raise BadImage("it holds 16-bit colours, which are not encoded again: --format raw keeps them")
            image = image[..., :1]  # a grey file, whose channels repeat each other
        mode = "I;16" if image.dtype == np.uint16 else MODES[image.shape[2]]
        plane = np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image)
        picture = Image.frombytes(mode, (image.shape[1], image.shape[0]), plane.tobytes())
        file = io.BytesIO()
        if kind == "jpeg":
            picture.save(file, "jpeg", quality=self.quality, subsampling=SUBSAMPLING)
        else:
            picture.save(file, "png")
        return file.getvalue()

    def feature(self) -> dict[str, Any]:
        """The image's entry in TFDS's features.json."""
        base = "tensorflow_datasets.core.features."
        shape = {"dimensions": ["-1", "-1", str(self.channels)]}
        if self.kind == "raw":
            tensor = {"dtype": self.dtype, "encoding": "bytes", "shape": shape}
            return {"pythonClassName": base + "tensor_feature.Tensor", "tensor": tensor}
        image = {"dtype": "uint8", "shape": shape} | ({"encodingFormat": "jpeg"} if self.kind == "jpeg" else {})
        return {"pythonClassName": base + "image_feature.Image", "image": image}


def natural(data: bytes | np.ndarray, channels: int | None) -> tuple[int, str]:
    """(channels, dtype) of an image: an array's own, or 3 channels (or as asked) for files. Raises BadImage."""
    if channels is None:
        channels = 3 if isinstance(data, bytes) else data.shape[2] if data.ndim == 3 else 1
    dtype = decode(data, channels).dtype.name
    assert dtype in SCALE
    return channels, dtype


def _head(data: bytes | np.ndarray) -> bytes:
    return data[:4] if isinstance(data, bytes) else b""
