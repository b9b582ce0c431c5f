"""Segmentations as one PNG: a row per image; the image, its truth, the prediction, and a legend of the classes."""

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from mae_jax.eval.iou import IGNORE
from mae_jax.eval.pictures import BACKGROUND, FONT, INK, grid

CELL = 160  # pixels of a picture's longer side
IGNORED = (128, 128, 128)
BOX, GAP = 14, 6  # of the legend, pixels
NAMED = 60  # classes that a legend names


def colours(classes: int) -> UInt8[np.ndarray, "classes 3"]:
    """A colour per class; neighbours differ in hue by the golden ratio, class 0 is dark."""
    out = []
    for i in range(classes):
        hue = (i * 0.618034) % 1
        out.append(colorsys.hsv_to_rgb(hue, (0.85, 0.55, 0.75)[i % 3], (1.0, 0.95, 0.7)[(i // 3) % 3]))
    out[0] = (0.12, 0.12, 0.16)
    return np.round(255 * np.array(out)).astype(np.uint8)


def paint(labels: Integer[np.ndarray, "h w"], classes: int) -> UInt8[np.ndarray, "h w 3"]:
    """Classes as colours; IGNORE is grey."""
    table = np.full((256, 3), IGNORED, np.uint8)
    table[:classes] = colours(classes)
    return table[labels.astype(np.int64)]


def segmentation_sheet(
    examples: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], names: Sequence[str]
) -> UInt8[np.ndarray, "H W 3"]:
    """The sheet.

    Args:
      examples: (image uint8 [h, w, c], truth uint8 [H, W], predicted int [H, W]) each.
      names: of the classes.
    """
    rows = []
    for image, truth, predicted in examples:
        image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
        rows.append([_fit(image, Image.Resampling.BILINEAR)]
                    + [_fit(paint(x, len(names)), Image.Resampling.NEAREST) for x in (truth, predicted)])  # fmt: skip
    sheet = grid(rows, ("image", "truth", "prediction"))
    seen = np.unique(np.concatenate([np.unique(x.astype(np.int64)) for e in examples for x in e[1:]]))
    return np.concatenate([sheet, _legend(seen, names, sheet.shape[1])])


def _fit(image: UInt8[np.ndarray, "h w 3"], resample: Image.Resampling) -> UInt8[np.ndarray, "c c 3"]:
    """Into a square cell, its aspect kept."""
    h, w = image.shape[:2]
    factor = CELL / max(h, w)
    size = max(1, round(w * factor)), max(1, round(h * factor))
    cell = Image.new("RGB", (CELL, CELL), (BACKGROUND,) * 3)
    cell.paste(Image.fromarray(image).resize(size, resample), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return np.asarray(cell)


def _legend(seen: Integer[np.ndarray, " n"], names: Sequence[str], width: int) -> UInt8[np.ndarray, "H W 3"]:
    """The classes that occur, each with its colour, in lines of the sheet's width."""
    table, font = colours(len(names)), ImageFont.load_default(FONT)
    entries = [(names[c], tuple(map(int, table[c]))) for c in seen if c != IGNORE][:NAMED]
    entries += [("ignored", IGNORED)] if IGNORE in seen else []
    places, x, y = [], GAP, GAP
    for text, colour in entries:
        wide = int(BOX + GAP / 2 + font.getlength(text) + 2 * GAP)
        if x > GAP and x + wide > width:
            x, y = GAP, y + BOX + GAP
        places.append((x, y, text, colour))
        x += wide
    sheet = Image.new("RGB", (width, y + BOX + GAP), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    for x, y, text, colour in places:
        draw.rectangle((x, y, x + BOX, y + BOX), colour)
        draw.text((x + BOX + GAP / 2, y + BOX / 2), text, (INK,) * 3, font, anchor="lm")
    return np.asarray(sheet)
