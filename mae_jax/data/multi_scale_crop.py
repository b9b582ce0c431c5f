"""Multi-scale crops of clips: which sizes and places are drawn from (VideoMAE, after TSN). Plain numbers."""

from collections.abc import Sequence

import numpy as np

SCALES = (1.0, 0.875, 0.75, 0.66)


def crop_pairs(
    h: int, w: int, size: int | tuple[int, int], scales: Sequence[float] = SCALES, max_distort: int = 1
) -> np.ndarray:
    """The crops of a picture of h x w that are drawn from, int [n, 2] of (width, height).

    A side is int(shorter side * scale), or exactly the side of `size` (rows, columns) that it is to become where it
    differs by less than 3 pixels from it. Width and height take scales at most `max_distort` apart in the list.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    sides = [int(min(h, w) * s) for s in scales]
    heights, widths = ([to if abs(x - to) < 3 else x for x in sides] for to in (rows, columns))
    pairs = [(b, a) for i, a in enumerate(heights) for j, b in enumerate(widths) if abs(i - j) <= max_distort]
    return np.array(pairs, np.int64)


def crop_offsets(h: int, w: int, crop_h: int, crop_w: int) -> np.ndarray:
    """The 13 places of a crop, int [13, 2] of (x, y): corners, centre, middles of the edges, quarter points."""
    x, y = (w - crop_w) // 4, (h - crop_h) // 4
    corners = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
    edges = [(0, 2), (4, 2), (2, 4), (2, 0)]
    quarters = [(1, 1), (3, 1), (1, 3), (3, 3)]
    return np.array([(i * x, j * y) for i, j in corners + edges + quarters], np.int64)
