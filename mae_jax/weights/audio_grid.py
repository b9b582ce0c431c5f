"""Which spectrograms, of which patches, a published position table is made for; or whether it is one of images."""

import dataclasses
import math

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.tokens.grid import overlapped_shape
from mae_jax.tokens.positions import sincos, with_prefix

MELS, CLIPS, STRIDE = 128, (1024, 512), (10, 10)  # of the published models


@dataclasses.dataclass(frozen=True)
class Layout:
    """What an encoder's table is for, as in `BirdMAE`."""

    size: tuple[int, int]
    stride: tuple[int, int] | None = None
    transposed: bool = True
    learned: bool = False


def layout(
    table: np.ndarray, patch: tuple[int, int], size: tuple[int, int] | None, certain: bool, where: str
) -> Layout | None:
    """What an encoder's table [1, 1 + n, d] is for; None: images.

    Args:
      patch: (frames, mel bins).
      size: of the spectrograms or images, where it was said.
      certain: whether something else tells that these are spectrograms.

    Raises:
      UserError: it cannot be told, or the table is not one for `size`.
    """
    fixed, n = grid_of(table), table.shape[1] - 1
    if size is None:
        return _unsized(fixed, n, patch, certain, where)
    return _sized(fixed, n, patch, size, certain, where)


def _unsized(fixed: tuple[int, int] | None, n: int, patch: tuple[int, int], certain: bool, where: str) -> Layout | None:
    """The grid that a fixed table is made for, tokens in the other order; a learned one shows none."""
    ask = "say for which spectrograms, --image-size FRAMES MELS (grey images: --image-size ROWS COLUMNS)."
    mels = MELS // patch[1] if MELS % patch[1] == 0 else 0
    if fixed is None:
        if not certain and (not mels or n % mels or n == mels**2):
            return None  # no spectrogram of 128 mel bins, or one that has the grid of an image
        raise UserError(f"{where} has {n} learned positions for patches of one channel, which show no grid: {ask}")
    for clip in CLIPS:
        if fixed == overlapped_shape((clip, MELS), patch, STRIDE):
            return Layout((clip, MELS), STRIDE, transposed=False)
    mel, time = fixed
    if mel == time and not certain:
        return None
    if mel > time or (mel != mels and not certain):
        raise UserError(f"{where} has the fixed table of a grid of {mel} x {time}, for patches of one channel: {ask}")
    return Layout((time * patch[0], mel * patch[1]))


def _sized(
    fixed: tuple[int, int] | None, n: int, patch: tuple[int, int], size: tuple[int, int], certain: bool, where: str
) -> Layout | None:
    """The layout of a size that was said, if the table agrees."""
    grid: tuple[int, ...] = (size[0] // patch[0], size[1] // patch[1])
    stride = None
    if size[0] % patch[0] or size[1] % patch[1] or math.prod(grid) != n:
        if min(a - b for a, b in zip(size, patch)) >= 0:
            grid, stride = overlapped_shape(size, patch, STRIDE), STRIDE
        if math.prod(grid) != n:
            if not certain and fixed is None:
                return None  # as images of that size are refused
            raise UserError(f"{where} has {n} positions, which are not those of {size[0]} frames x {size[1]} mel bins.")
    if fixed is None:
        spectrogram = certain or stride is not None or (size[1] == MELS != size[0])
        return Layout(size, stride, transposed=stride is None, learned=True) if spectrogram else None
    turned = fixed == grid[::-1] and stride is None
    if not turned and fixed != grid:
        raise UserError(
            f"{where} has the fixed table of a grid of {fixed[0]} x {fixed[1]}, and not that of {size[0]} frames x "
            f"{size[1]} mel bins (or rows x columns): leave --image-size out, or correct it."
        )
    if certain or stride is not None or (turned and fixed != grid):
        return Layout(size, stride, transposed=turned)
    if fixed[0] < fixed[1] and size[0] == MELS:
        raise UserError(
            f"{where} has the table of Audio-MAE's spectrograms of {size[1]} frames x {size[0]} mel bins; images of "
            f"that size with one channel would have the same. Say --image-size {size[1]} {size[0]}."
        )
    return None


def grid_of(table: np.ndarray) -> tuple[int, int] | None:
    """Of which grid a file's (1, 1 + n, dim) is the fixed table; None: of none, it was learned."""
    n, dim = table.shape[1] - 1, table.shape[2]
    if dim % 4:
        return None
    grids = [(k, n // k) for k in range(1, n + 1) if n % k == 0]
    return next((g for g in grids if same(table, with_prefix(sincos(dim, g), 1)[None])), None)


def same(table: np.ndarray, fixed: np.ndarray) -> bool:
    return table.shape == fixed.shape and float(np.abs(table - fixed).max()) <= 1e-5
