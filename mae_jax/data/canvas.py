"""The host's share of the device path: a picture decoded onto a canvas of fixed size, for the device to crop."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.data.limits import BadImage
from mae_jax.data.picture import Picture
from mae_jax.data.resize import resize
from mae_jax.data.views import Draw, missing


@dataclass(frozen=True)
class Canvas:
    """The record's image at the top left of uint8 [H, W, channels], zeros elsewhere, and its extent.

    A picture larger than the canvas is made to fit, its aspect kept: a JPEG by decoding it small where that leaves
    enough pixels, then by resizing with antialiasing where need be. A smaller one lies there as it is.

    Attributes:
        size: (H, W) of the canvas.
        channels: wanted number of channels.
    """

    size: tuple[int, int]
    channels: int

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> dict[str, np.ndarray]:
        """{"": uint8 [H, W, c], ".extent": int32 [4]}: the picture's true size (h0, w0), its size on the canvas (h, w).

        Raises: as `fill`.
        """
        canvas: np.ndarray = np.empty((*self.size, self.channels), np.uint8)
        out = {"": canvas, ".extent": np.empty(4, np.int32)}
        self.fill(name, record, draw, out)
        return out

    def fill(self, name: str, record: Mapping[str, Any], draw: Draw, out: Mapping[str, np.ndarray]) -> None:
        """Write what a call would give into arrays that are there already: a canvas is too large to copy for nothing.

        Raises: BadImage, also for pixels that are not uint8; UserError where the record holds no image.
        """
        if "image" not in record:
            raise missing(name, record)
        true, image = self._fitted(Picture.of(record["image"]))
        if image.dtype != np.uint8:
            raise BadImage(
                f"it holds {image.dtype} pixels, and augment.where='device' reads uint8 ones: set "
                f"--config.augment.where=host, which reads any"
            )
        h, w = image.shape[:2]
        canvas = out[""]
        canvas[:h, :w], canvas[:h, w:], canvas[h:] = image, 0, 0
        out[".extent"][:] = (*true, h, w)

    def _fitted(self, picture: Picture) -> tuple[tuple[int, int], np.ndarray]:
        """(true size, the image as it goes onto the canvas)."""
        true = picture.size
        fit = min(1.0, self.size[0] / true[0], self.size[1] / true[1])
        shrink = next((s for s in (8, 4, 2) if 1 / s >= fit), 1)
        image = picture.pixels(self.channels, shrink, exact=False)
        h, w = (max(1, min(c, round(t * fit))) for c, t in zip(self.size, true))
        if image.dtype != np.uint8 or (image.shape[0] <= self.size[0] and image.shape[1] <= self.size[1]):
            return true, image
        return true, resize(image, (h, w))
