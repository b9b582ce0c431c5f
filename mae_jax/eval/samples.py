"""A sheet of samples with their labels, as the network gets them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from mae_jax.eval.pictures import denormalise, grid, to_rgb

INK, PAPER, FONT = (255, 255, 255), (0, 0, 0), 11


def sample_sheet(
    images: Sequence[Float[np.ndarray, "b h w c"]],
    labels: Sequence[str],
    colours: Sequence[tuple[Sequence[float], Sequence[float]]],
    *,
    columns: int = 8,
) -> UInt8[np.ndarray, "H W 3"]:
    """Samples side by side, each with all its images (views) in a row and its label on the first of them.

    Args:
      images: one array per view; views of other sizes than the first are resized to it.
      labels: one per sample.
      colours: (mean, std) per view that bring it back to [0, 1].
      columns: pictures in a row, at most.
    """
    height, width = images[0].shape[1:3]
    views = [to_rgb(denormalise(image, *c)) for image, c in zip(images, colours, strict=True)]
    per_row = max(1, columns // len(views))
    blank = np.full((height, width, 3), 255, np.uint8)
    cells = []
    for i, label in enumerate(labels):
        row = [_fit(view[i], height, width) for view in views]
        cells.append([_labelled(row[0], label), *row[1:]])
    cells += [[blank] * len(views)] * (-len(cells) % min(per_row, len(cells)))
    per_row = min(per_row, len(cells))
    rows = [sum(cells[i : i + per_row], []) for i in range(0, len(cells), per_row)]
    return grid(rows)


def _fit(image: UInt8[np.ndarray, "h w 3"], height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height)))


def _labelled(image: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h w 3"]:
    """The text in the upper left corner, where the image is large enough to bear it."""
    if not text or min(image.shape[:2]) < 3 * FONT:
        return image
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT)
    while len(text) > 1 and draw.textlength(text, font) > image.shape[1] - 4:
        text = text[:-1]
    draw.rectangle((0, 0, draw.textlength(text, font) + 4, FONT + 4), PAPER)
    draw.text((2, 1), text, INK, font)
    return np.asarray(picture)
