"""Pooled features on their first two principal components, coloured by label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps

from mae_jax.eval.features import Labelled
from mae_jax.eval.figures import COLOURS, finish, panels, pixels
from mae_jax.eval.pca import principal

LEGEND = 20  # classes with a name and a colour of their own; the rest is grey
OTHER = "#c4c4c4"


def embedding_plot(
    data: Labelled, classes: Sequence[str] = (), title: str = ""
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "n 2"]]:
    """(a scatter plot, its coordinates): principal components 1 and 2 of the features.

    The axes have one scale, so distances in the plot are distances in the plane; their labels give the share of the
    variance that each shows. With more than `LEGEND` classes the most frequent keep colours.

    Args:
      data: labels below 0 are drawn grey.
      classes: names of the labels.

    Raises:
      UserError: fewer than three samples, or features that are not finite.
    """
    components = principal(data.features, 2)
    points = components(data.features)
    figure, (axes,) = panels(1, 5.0)
    found, counts = np.unique(data.labels[data.labels >= 0], return_counts=True)
    shown = np.sort(found[np.argsort(-counts, kind="stable")[:LEGEND]])
    rest = ~np.isin(data.labels, shown)
    size = float(np.clip(6000 / max(len(points), 1), 4, 24))
    style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.8}
    if rest.any():
        name = f"{len(found) - len(shown)} other classes" if len(found) > len(shown) else "no label"
        axes.scatter(*points[rest].T, color=OTHER, label=name if len(shown) else None, **style)
    palette = COLOURS if len(shown) <= len(COLOURS) else [colormaps["tab20"](i) for i in range(20)]
    for i, label in enumerate(shown):
        name = classes[label] if label < len(classes) else str(label)
        axes.scatter(*points[data.labels == label].T, color=palette[i], label=_short(name), **style)
    if len(shown):
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, markerscale=(24 / size) ** 0.5
        )
    first, second = (f"component {i + 1} ({100 * share:.1f} % of the variance)" for i, share in
                     enumerate(components.share))  # fmt: skip
    finish(axes, title or f"{len(points)} samples", first)
    axes.set_ylabel(second)
    axes.set_aspect("equal", adjustable="datalim")
    return pixels(figure), points


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
