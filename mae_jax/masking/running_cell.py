"""Running cells: which tokens of a clip a decoder is asked for (VideoMAE V2, Sec. 3.2). Static, but for one draw."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context

CELL = (2, 2)
STARTS = 4  # as many as a cell has tokens


def cell_maps(grid: tuple[int, ...], ratio: float) -> np.ndarray:
    """All maps, bool [4, slots * rows * columns]: True where the decoder is not asked (dropped).

    A cell of 2 x 2 tokens drops int(4 ratio) of them, others in every slot: with queue = [1] * int(4 ratio) and zeros
    up to 4, the map of start s has queue[(k + s + t + 1) mod 4] at token k of every cell in slot t. Over four slots
    every token is therefore dropped equally often.

    Raises:
      UserError: rows or columns that are odd, or a ratio that is no multiple of 1/4 in [0, 1).
    """
    slots, rows, columns = grid
    if rows % CELL[0] or columns % CELL[1]:
        raise UserError(f"running cells are of 2 x 2 patches, but the grid has {rows} x {columns}: both must be even.")
    if ratio not in (0.0, 0.25, 0.5, 0.75):
        raise UserError(
            f"method.decoder_ratio={ratio}: a running cell drops 1, 2 or 3 of its 4 patches; 0, 0.25, 0.5 or 0.75."
        )
    dropped = int(STARTS * ratio)
    queue = np.arange(STARTS) < dropped
    k, t, s = np.arange(STARTS), np.arange(slots)[:, None], np.arange(STARTS)[:, None, None]
    cells = queue[(k + s + t + 1) % STARTS].reshape(STARTS, slots, *CELL)
    return np.tile(cells, (1, 1, rows // CELL[0], columns // CELL[1])).reshape(STARTS, -1)


def cell_ids(ctx: Context, batch: int, maps: np.ndarray, name: str = "cell") -> Int[Array, "{batch} m"]:
    """The positions that the decoder is asked for, ascending: those of one of the maps, drawn per sample."""
    kept = np.stack([np.flatnonzero(~m) for m in maps]).astype(np.int32)
    start = jnp.floor(STARTS * ctx.uniform(name, (batch,))).astype(jnp.int32)
    return jnp.asarray(kept)[start]
