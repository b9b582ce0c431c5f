"""The same images reconstructed under several mask ratios, or by the weights of several steps."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mae_jax.core.errors import UserError, nearest
from mae_jax.eval.pictures import LINE, caption, coloured, enlargement, grid, ordered
from mae_jax.methods.base import Method, config_fields

RATIOS = (0.25, 0.5, 0.75, 0.9)
COLUMNS = 6  # steps in a sheet that training keeps up to date
Colours = tuple[tuple[float, ...], tuple[float, ...]]


def at_ratio(method: Method, ratio: float) -> Method:
    """The method with another share of hidden tokens; its weights stay as they are.

    Raises:
      UserError: a method whose masks have no ratio, or a ratio that it cannot have.
    """
    if "mask_ratio" not in config_fields(type(method)):
        masks = {name: getattr(method, name) for name in config_fields(type(method)) if "mask" in name}
        own = ", ".join(f"{name}={value}" for name, value in masks.items()) or "nothing of the kind"
        raise UserError(
            f"'{method.name}' has no mask_ratio that could be varied (its masks are described by {own}): draw it with "
            f"`mae_jax reconstruct`."
        )
    changing: Any = method
    other: Method = dataclasses.replace(changing, mask_ratio=ratio)
    other.check()
    return other


def possible(method: Method, ratios: Sequence[float]) -> list[float]:
    """Those of `ratios` that the method can have."""
    at_ratio(method, getattr(method, "mask_ratio", 0.5))  # a method without any is an error
    found = []
    for ratio in ratios:
        try:
            at_ratio(method, ratio)
        except UserError:
            continue
        found.append(ratio)
    return found


def predicted(pictures: Mapping[str, Any], show: str | None = None) -> str:
    """Which of a method's pictures tells how well it predicts: `show`, or "pasted", or the like.

    Raises:
      UserError: no picture of that name, or nothing predicted at all.
    """
    if show is not None:
        if show not in pictures:
            raise UserError(f"there is no picture '{show}'. {nearest(show, pictures)}")
        return show
    names = [name for name in ("pasted", "reconstruction") if name in pictures]
    names += sorted((n for n in pictures if n not in ("original", "masked")), key=lambda n: ("predict" not in n, n))
    if not names:
        raise UserError("the method predicts nothing that can be drawn as an image.")
    return names[0]


def ratio_sheet(
    drawn: Mapping[float, Mapping[str, Any]],
    colours: Colours,
    *,
    most: int = 8,
    show: str | None = None,
    hidden: Mapping[float, float] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Two rows per image, what is visible above what is predicted; a column per ratio.

    Args:
      drawn: {mask ratio: the same images' pictures from `Method.pictures`}.
      hidden: the share of tokens that is really hidden at each ratio, said where it is another: small grids round.
      show: which picture stands below (default: `predicted`).
    """
    columns, captions, rows = [], [], []
    for ratio, pictures in drawn.items():
        arrays = {name: np.asarray(array, np.float32)[:most] for name, array in pictures.items()}
        cells, note = coloured(arrays, *colours)
        columns.append((cells["masked"], cells[predicted(cells, show)]))
        share = (hidden or {}).get(ratio, ratio)
        captions.append(
            f"mask ratio {ratio:g}" + (f"\n({100 * share:.0f} % hidden)" if abs(share - ratio) > 0.005 else "")
        )
    for i, image in enumerate(cells["original"]):
        rows.append([image, *(masked[i] for masked, _ in columns)])
        rows.append([None, *(below[i] for _, below in columns)])
    return grid(rows, [caption("original", note), *captions], ["", caption(predicted(cells, show))] * len(rows[::2]))


def hidden_share(method: Method) -> float | None:
    """The share of tokens that the encoder does not see, by the method's own counts; None where it gives none."""
    cost = method.cost()
    return None if cost is None else 1 - cost.visible / cost.tokens


def step_sheet(
    drawn: Mapping[int, Mapping[str, Any]], colours: Colours, *, most: int = 8, show: str | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """A row per image: original, masked, and what is predicted by the weights of each step.

    Args:
      drawn: {step: the same images' pictures under the same masks}.
    """
    columns: list[Any] = []
    captions: list[str] = []
    for step, pictures in sorted(drawn.items()):
        cells, note = coloured({name: np.asarray(a, np.float32)[:most] for name, a in pictures.items()}, *colours)
        if not columns:
            given = [name for name in ("original", "masked") if name in cells]
            columns = [cells[name] for name in given]
            captions = [caption(name, note if i == 0 else "") for i, name in enumerate(given)]
        columns.append(cells[predicted(cells, show)])
        captions.append(f"step {step:,}")
    return grid([list(row) for row in zip(*columns)], captions)


def layout(pictures: Mapping[str, Any], most: int) -> str:
    """Where the cells of the `reconstruction_grid` of these pictures lie, as a text to write into its PNG."""
    names = ordered(pictures)
    b, height, width = pictures[names[0]].shape[:3]
    factor = enlargement(height, width)
    return json.dumps({"columns": names, "cell": [factor * height, factor * width], "rows": min(most, b)})


def from_files(files: Mapping[int, Path]) -> UInt8[np.ndarray, "H W 3"] | None:
    """The sheet of `step_sheet` out of pictures that training wrote ({step: file}), at most `COLUMNS` of them.

    None where fewer than two of them can be read and have cells of one size.
    """
    found: dict[int, dict[str, list[np.ndarray]]] = {}
    for step in _spread(sorted(files), COLUMNS):
        with Image.open(files[step]) as picture:
            text = getattr(picture, "text", {}).get("layout")
            if text is not None:
                found[step] = _cells(np.asarray(picture.convert("RGB")), json.loads(text))
    sizes = [next(iter(pictures.values()))[0].shape for pictures in found.values()]
    if len(found) < 2 or len(set(sizes)) > 1:
        return None
    first = next(iter(found.values()))
    given = [name for name in ("original", "masked") if name in first]
    columns = [first[name] for name in given] + [pictures[predicted(pictures)] for pictures in found.values()]
    captions = [caption(name) for name in given] + [f"step {step:,}" for step in found]
    return grid([list(row) for row in zip(*columns)], captions)  # zip: as many rows as the shortest has


def _cells(sheet: np.ndarray, where: Mapping[str, Any]) -> dict[str, list[np.ndarray]]:
    (height, width), rows = where["cell"], where["rows"]
    head = sheet.shape[0] - (rows * (height + LINE) - LINE)
    tops = [head + i * (height + LINE) for i in range(rows)]
    lefts = {name: j * (width + LINE) for j, name in enumerate(where["columns"])}
    return {name: [sheet[t : t + height, left : left + width] for t in tops] for name, left in lefts.items()}


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of them, evenly spread, first and last among them."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]
