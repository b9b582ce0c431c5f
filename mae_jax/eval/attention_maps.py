"""What the encoder's blocks attend to, laid over the input: any method whose `encode` uses self-attention."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from matplotlib import colormaps

from mae_jax.core.errors import UserError
from mae_jax.core.types import Batch, Params
from mae_jax.eval.pictures import grid
from mae_jax.eval.planes import enlarge, plane, readable
from mae_jax.methods.base import Method, Rest
from mae_jax.nets.attention import record

COLOURS = "inferno"
Query = str | tuple[int, int]  # "class", "mean", or the row and column of a patch
STRENGTH = 0.75  # share of the colour; the rest is the picture in grey


class Attended(NamedTuple):
    """Attention of one encoder to its own tokens.

    Attributes:
      maps: per block, the weights [b h t t] of t = p + n tokens, prefix first; each row sums to 1.
      prefix: the number p of class and register tokens.
      grid: how the n patches lie.
      batch: the input as the network got it.
    """

    maps: list[Float[np.ndarray, "b h t t"]]
    prefix: int
    grid: tuple[int, ...]
    batch: Mapping[str, Any]


def attended(
    method: Method, prepare: Callable[[Batch], Batch], params: Params, rest: Rest, batch: Mapping[str, Any]
) -> Attended:
    """Run `encode` on a batch as the source gives it, and keep every self-attention.

    Raises:
      UserError: the encoder has none (a convolutional network, a graph's).
    """
    changing: Any = method
    plain: Method = dataclasses.replace(
        changing, compute=dataclasses.replace(method.compute, scan=False, remat="none")
    )  # what happens inside a loop, or is computed again, cannot be collected

    @jax.jit
    def run(params: Params, rest: Rest, batch: Batch) -> tuple[list[Array], Batch]:
        prepared = prepare(batch)
        with record() as maps:
            features = plain.encode(params, rest, prepared)
        shape["prefix"], shape["grid"] = features.prefix.shape[1], features.grid
        return list(maps), prepared

    shape: dict[str, Any] = {}
    maps, prepared = jax.device_get(run(params, rest, dict(batch)))
    if not maps:
        raise UserError(
            f"the encoder of '{method.name}' has no self-attention to draw. `mae_jax draw embedding` draws the "
            f"features of any method, `draw features` those of patches."
        )
    return Attended(maps, shape["prefix"], shape["grid"], prepared)


def looks(
    weights: Float[np.ndarray, "b h t t"], prefix: int, query: Query, grid_: Sequence[int]
) -> Float[np.ndarray, "b h n"]:
    """How much one query attends to each patch.

    What it attends to the class token is left out, so the sum over patches is at most 1.

    Args:
      query: "class", the first prefix token; "mean", the mean over all patches as queries; (row, column), a patch.

    Raises:
      UserError: there is no such query.
    """
    if query == "class":
        if not prefix:
            raise UserError("this encoder has no class token whose attention could be drawn: take --query mean.")
        return weights[:, :, 0, prefix:]
    if query == "mean":
        return weights[:, :, prefix:, prefix:].mean(axis=2)
    if isinstance(query, str):
        raise UserError(f"--query {query}: 'class', 'mean' or a patch as ROW,COLUMN expected.")
    row, column = query
    if len(grid_) != 2 or not (0 <= row < grid_[0] and 0 <= column < grid_[1]):
        raise UserError(
            f"--query {row},{column} names no patch of a grid {tuple(grid_)}: two axes, counted from 0, are expected."
        )
    return weights[:, :, prefix + row * grid_[1] + column, prefix:]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], attention: Float[np.ndarray, "i j"], strength: float = STRENGTH
) -> UInt8[np.ndarray, "h w 3"]:
    """Attention in colour over a grey picture; black is none, white this map's own maximum."""
    level = enlarge(attention / max(float(attention.max()), np.finfo(np.float32).tiny), image.shape[:2])
    colour = 255 * colormaps[COLOURS](level)[..., :3]
    grey = image.astype(np.float32).mean(axis=-1, keepdims=True)
    return np.clip((1 - strength) * grey + strength * colour, 0, 255).astype(np.uint8)


def attention_sheet(
    found: Attended,
    images: UInt8[np.ndarray, "b h w 3"],
    caption: str = "original",
    *,
    blocks: Sequence[int] = (-1,),
    heads: Sequence[int] | None = None,
    mean: bool = True,
    query: Query = "class",
) -> UInt8[np.ndarray, "H W 3"]:
    """A row per image (and block, where several heads of several blocks are asked): the input, then its maps.

    Args:
      images, caption: the input as `planes.drawn_input` gives it.
      blocks: numbers from 0; negative ones count from the end.
      heads: which; None: all.
      mean: whether the mean over all heads comes first. With several blocks and no heads it is all that is drawn,
        a column per block.

    Raises:
      UserError: no such block, head or query.
    """
    blocks = [_index(block, len(found.maps), "block") for block in blocks]
    maps = {block: _laid(found, block, query) for block in blocks}
    count = min(m.shape[1] for m in maps.values())
    heads = range(count) if heads is None else [_index(head, count, "head") for head in heads]
    if not heads and not mean:
        raise UserError("nothing to draw: neither a head nor the mean over heads is asked.")
    images = readable(images)
    panels = lambda m: ([m.mean(axis=0)] if mean else []) + [m[h] for h in heads]
    names = (["mean of heads"] if mean else []) + [f"head {h}" for h in heads]
    rows: list[list[Any]] = []
    if len(names) == 1:  # a column per block
        captions = [caption, *(f"block {block}, {names[0]}" for block in blocks)]
        for i, image in enumerate(images):
            rows.append([image, *(overlay(image, panels(maps[block][i])[0]) for block in blocks)])
        return grid(_marked(rows, query, found.grid), captions)
    labels = []
    for i, image in enumerate(images):
        for block in blocks:
            first = image if block == blocks[0] else None
            rows.append([first, *(overlay(image, m) for m in panels(maps[block][i]))])
            labels.append(f"block {block}")
    return grid(_marked(rows, query, found.grid), [caption, *names], labels if len(blocks) > 1 else ())


def _index(number: int, count: int, what: str) -> int:
    if not -count <= number < count:
        raise UserError(f"there is no {what} {number}: this encoder has {count}, counted from 0.")
    return number % count


def _laid(found: Attended, block: int, query: Query) -> Float[np.ndarray, "b h i j"]:
    weights, n = found.maps[block], int(np.prod(found.grid))
    if weights.shape[-1] != found.prefix + n:
        raise UserError(
            f"block {block} attends among {weights.shape[-1]} tokens, not among {found.prefix} + {n} on the grid "
            f"{found.grid}: its attention has no place in the image."
        )
    seen = looks(weights, found.prefix, query, found.grid)
    b, h, n = seen.shape
    flat = plane(seen.reshape(b * h, n), found.grid)
    return flat.reshape(b, h, *flat.shape[1:])


def _marked(rows: list[list[Any]], query: Query, grid_: Sequence[int]) -> list[list[Any]]:
    """The patch that asks, framed in the input."""
    if isinstance(query, str):
        return rows
    for row in rows:
        if row[0] is not None:
            row[0] = row[0].copy()
            height, width = row[0].shape[:2]
            here = np.zeros(tuple(grid_), bool)
            here[query] = True
            inside = enlarge(here, (height, width))
            core = np.zeros_like(inside)
            core[1:-1, 1:-1] = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1]
            core[1:-1, 1:-1] &= inside[1:-1, :-2] & inside[1:-1, 2:]
            row[0][inside & ~core] = (0, 200, 255)
    return rows
