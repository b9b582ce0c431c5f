"""Where tokens lie in a picture: the input as it is drawn, and values of tokens on its plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.eval.pictures import CELL, channel_note, in_colour
from mae_jax.methods.base import Method


def drawn_input(
    method: Method, batch: Mapping[str, Any], colours: tuple[Sequence[float], Sequence[float]]
) -> tuple[UInt8[np.ndarray, "b h w 3"], str]:
    """The input of a prepared batch as pictures, and what the caption says of it.

    Images as they are; of volumes the middle slice along the last axis, as in `Method.pictures`.

    Args:
      colours: mean and deviation of the input's normalisation; empty where it lies in [0, 1].

    Raises:
      UserError: the method reads neither images nor volumes.
    """
    name = next((name for name in method.batch_spec if name.startswith(("image", "volume"))), None)
    if name is None:
        raise UserError(
            f"'{method.name}' reads {', '.join(method.batch_spec)}: its tokens have no place in an image, so nothing "
            f"can be laid over one. `mae_jax draw embedding` draws the features of any method."
        )
    x, note = np.asarray(batch[name], np.float32), ""
    if x.ndim == 5:
        x, note = x[:, :, :, x.shape[3] // 2], "middle slice"
    note = ", ".join(part for part in (note, channel_note(x.shape[-1])) if part)
    return in_colour(x, *colours), f"original ({note})" if note else "original"


def plane(values: Shaped[np.ndarray, "b n *k"], grid: Sequence[int]) -> Shaped[np.ndarray, "b i j *k"]:
    """Values of tokens in raster order, where they lie: the grid of an image, the middle slice of a volume's.

    Raises:
      UserError: a grid of one axis, or of more than three.
    """
    if len(grid) not in (2, 3):
        raise UserError(f"tokens on a grid {tuple(grid)} have no place in an image: two or three axes are expected.")
    laid = values.reshape(values.shape[0], *grid, *values.shape[2:])
    # The voxel at half of g patches of p voxels lies in patch g // 2, whatever p.
    return laid if len(grid) == 2 else laid[:, :, :, grid[2] // 2]


def enlarge(values: Shaped[np.ndarray, "i j *k"], size: Sequence[int]) -> Shaped[np.ndarray, "h w *k"]:
    """One value per patch -> one per pixel of a picture, by the nearest."""
    rows, columns = (np.arange(s) * g // s for g, s in zip(values.shape[:2], size))
    return values[rows][:, columns]


def readable(images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b H W 3"]:
    """Large pictures shrunk by a whole factor to at most twice a cell: a sheet of many would not fit a screen."""
    factor = max(images.shape[1:3]) // (2 * CELL)
    if factor < 2:
        return images
    size = (images.shape[2] // factor, images.shape[1] // factor)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in images])
