"""Reconstructions as one PNG: a row per sample; original, masked, reconstruction, and both together."""

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from mae_jax.core.errors import UserError

COLUMNS = {  # key of Method.pictures -> caption
    "original": "original",
    "masked": "masked",
    "reconstruction": "reconstruction",
    "pasted": "visible + reconstructed",
}
CELL = 128  # smaller images are enlarged by a whole factor to at least this many pixels on their longer side
LINE, FONT, MARGIN = 2, 12, 110  # separator, caption, and at most so much for the labels of rows, in pixels
BACKGROUND, INK, GREY = 255, 40, 128


def reconstruction_grid(
    pictures: Mapping[str, Float[np.ndarray, "b h w c"]],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    *,
    max_images: int = 8,
) -> UInt8[np.ndarray, "H W 3"]:
    """A captioned grid of what `Method.pictures` returned: `COLUMNS` first, then the others by name.

    One channel is drawn grey, three as RGB, two as their mean, more by the first three (the caption says so).

    Args:
      pictures: of one height and width. Those with as many channels as `mean` are in the normalised space of the
        network's input, others in [0, 1].
      mean, std: per channel, of that normalisation; values are brought back to [0, 1] and clipped.

    Raises:
      UserError: nothing to draw.
    """
    cells, note = coloured({name: array[:max_images] for name, array in pictures.items()}, mean, std)
    captions = [caption(name, note if i == 0 else "") for i, name in enumerate(cells)]
    return grid([list(row) for row in zip(*cells.values())], captions)


def coloured(
    pictures: Mapping[str, Float[np.ndarray, "b h w c"]],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> tuple[dict[str, UInt8[np.ndarray, "b h w 3"]], str]:
    """The cells of `reconstruction_grid` in its order, and what its first caption says of the channels."""
    names = ordered(pictures)
    if not names or not len(pictures[names[0]]):
        raise UserError("There is no picture to draw: the method returned none, or the batch is empty.")
    arrays = {name: np.asarray(pictures[name], np.float32) for name in names}
    cells = {name: in_colour(array, mean, std) for name, array in arrays.items()}
    if set(names) >= set(COLUMNS):
        cells["masked"] = np.where(hidden_pixels(arrays)[..., None], np.uint8(GREY), cells["masked"])
    return cells, channel_note(arrays[names[0]].shape[-1])


def ordered(names: Iterable[str]) -> list[str]:
    """The order in which pictures are drawn: `COLUMNS` first, then the others by name."""
    names = set(names)
    return [name for name in COLUMNS if name in names] + sorted(names - set(COLUMNS))


def enlargement(height: int, width: int) -> int:
    """The whole factor by which small pictures are enlarged."""
    return max(1, -(-CELL // max(height, width)))


def in_colour(
    image: Float[np.ndarray, "*b c"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[np.ndarray, "*b 3"]:
    """8-bit RGB of what is normalised if it has the channels of `mean`, and in [0, 1] if not."""
    fixed = image.shape[-1] == len(mean)
    return to_rgb(denormalise(image, mean, std) if fixed else denormalise(image, (0.0,), (1.0,)))


def channel_note(channels: int) -> str:
    """What `to_rgb` shows of so many channels, where that is not all."""
    return {1: "", 3: "", 2: "mean of 2 channels"}.get(channels, f"channels 1-3 of {channels}")


def caption(name: str, note: str = "") -> str:
    """How a picture of `Method.pictures` is called in a head."""
    return COLUMNS.get(name, name.replace("_", " ")) + (f" ({note})" if note else "")


def denormalise(
    image: Float[np.ndarray, "*b c"], mean: Sequence[float], std: Sequence[float]
) -> Float[np.ndarray, "*b c"]:
    """From normalised values to [0, 1], clipped; a NaN (of weights that diverged) becomes 0."""
    pixels = image * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    return np.clip(np.nan_to_num(pixels), 0.0, 1.0)


def to_rgb(image: Float[np.ndarray, "*b c"]) -> UInt8[np.ndarray, "*b 3"]:
    """[0, 1] with any number of channels -> 8-bit RGB."""
    if image.shape[-1] == 2:
        image = image.mean(axis=-1, keepdims=True)
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
    return np.round(image * 255).astype(np.uint8)


def hidden_pixels(arrays: Mapping[str, Float[np.ndarray, "b h w c"]]) -> Bool[np.ndarray, "b h w"]:
    """Where "masked" hides the image: it holds 0 there, and "pasted" shows the reconstruction.

    Both are asked, since a visible pixel of exactly the mean colour is 0 as well.
    """
    blank = arrays["masked"] == 0.0
    predicted = arrays["pasted"] == arrays["reconstruction"]
    return (blank & predicted).all(axis=-1)


def grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "h w 3"] | None]],
    captions: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of equally large images, enlarged if small, under captions, with thin separators.

    The images end at the sheet's lower right corner; captions stand above them, labels of rows to their left.

    Args:
      rows: None leaves a cell empty.
      captions: one per column. labels: one per row.
    """
    height, width = next(image.shape[:2] for row in rows for image in row if image is not None)
    factor = enlargement(height, width)
    cell_h, cell_w = height * factor, width * factor
    columns = len(rows[0])
    font = ImageFont.load_default(FONT)
    texts = [_wrap(text, font, cell_w - 4) for text in captions]
    head = max((text.count("\n") + 1 for text in texts), default=0) * (FONT + 3) + (4 if texts else 0)
    beside = [_wrap(text, font, MARGIN - 8) for text in labels]
    left = max((int(font.getlength(line)) + 8 for text in beside for line in text.split("\n")), default=0)
    size = (left + columns * (cell_w + LINE) - LINE, head + len(rows) * (cell_h + LINE) - LINE)
    sheet = Image.new("RGB", size, (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(texts):
        middle = left + column * (cell_w + LINE) + cell_w / 2
        draw.multiline_text((middle, 2), text, (INK,) * 3, font, anchor="ma", align="center", spacing=2)
    for i, text in enumerate(beside):
        middle = head + i * (cell_h + LINE) + cell_h / 2
        draw.multiline_text((left - 5, middle), text, (INK,) * 3, font, anchor="rm", align="right", spacing=2)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            if image is not None:
                big = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
                sheet.paste(Image.fromarray(big), (left + j * (cell_w + LINE), head + i * (cell_h + LINE)))
    return np.asarray(sheet)


def save_png(path: str | os.PathLike[str], array: UInt8[np.ndarray, "H W 3"], **texts: str) -> None:
    """Write a PNG whole or not at all: a reader, or a crash, never meets half a file.

    `texts` are written into it beside the pixels, as PNG text chunks (`Image.open(path).text`).
    """
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            Image.fromarray(array).save(file, format="PNG", pnginfo=info)
        os.chmod(temporary, 0o644)  # mkstemp makes it readable by its owner alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Break a caption between words so that it fits its column; its own line breaks stay."""
    lines: list[str] = []
    for part in text.split("\n"):
        lines.append("")
        for word in part.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return "\n".join(lines)
