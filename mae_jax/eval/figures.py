"""What figures with axes have in common: colours, a canvas without a window, sparse axes, a file written whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mae_jax.eval.pictures import save_png

COLOURS = ("#1f5fa8", "#c8553d", "#3a8f5c", "#8a5fb0", "#b8862b", "#4b4b4b", "#2aa1a8", "#d1608f", "#7a9a2e", "#6b4a2f")
DPI = 150
ACROSS = 3  # panels in a row


def panels(count: int, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each 6 inches wide and `height` high, at most ACROSS in a row."""
    rows, columns = -(-count // ACROSS), min(count, ACROSS)
    figure = Figure(figsize=(6.0 * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def finish(axes: Axes, title: str, xlabel: str = "", number: Callable[[float], str] | None = None) -> None:
    """Title, grid, no box; `number` writes the numbers of a linear x axis."""
    axes.set_xlabel(xlabel)
    axes.set_title(title, loc="left", fontsize=10)
    if number is not None and axes.get_xscale() == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(x)))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def pixels(figure: Figure) -> UInt8[np.ndarray, "H W 3"]:
    """The figure as pixels, for `pictures.save_png`."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as a PNG, whole or not at all."""
    save_png(path, pixels(figure))
    return Path(path)
