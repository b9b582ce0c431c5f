"""curves.png: what a run's loss and probe accuracies did, drawn from metrics.jsonl alone."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mae_jax.core.errors import UserError
from mae_jax.train.progress import si
from mae_jax.train.writers import read_jsonl

_COLOURS = ("#1f5fa8", "#c8553d", "#3a8f5c", "#8a5fb0", "#b8862b", "#4b4b4b")
_SMOOTH_FROM = 200  # points from which a running median is drawn over the raw loss


def plot_run(workdir: str | Path) -> Path:
    """Draw WORKDIR/curves.png: loss on the left and, if probes were run, their accuracies on the right.

    Raises:
      UserError: there is no metrics.jsonl, or it holds neither a loss nor a probe.
    """
    workdir = Path(workdir)
    source = workdir / "metrics.jsonl"
    records = read_jsonl(source)
    losses = series(records, "loss")
    names = sorted({name for record in records for name in record if name.startswith("probe/")})
    probes = {name.removeprefix("probe/"): series(records, name) for name in names}
    if not losses[0] and not probes:
        raise UserError(f"{source} holds no 'loss' and no 'probe/...' values to draw yet. Train some steps first.")
    panels = (1 if losses[0] else 0) + (1 if probes else 0)
    figure = Figure(figsize=(6.0 * panels, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if losses[0]:
        _draw_loss(axes[0], *losses)
    if probes:
        _draw_probes(axes[-1], probes)
    figure.suptitle(workdir.absolute().name, fontsize=11, color="#333333")
    path = workdir / "curves.png"
    figure.savefig(path, dpi=150)
    return path


def series(records: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric, non-finite values left out."""
    found = [
        (r["step"], float(r[name])) for r in records if isinstance(r.get(name), int | float) and math.isfinite(r[name])
    ]
    return [step for step, _ in found], [value for _, value in found]


def running_median(values: Sequence[float | int], width: int) -> list[float]:
    """Median of the `width` values centred on each, fewer at both ends: one spike leaves no step in it."""
    half = width // 2
    return [statistics.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _draw_loss(axes: Axes, steps: list[int], values: list[float]) -> None:
    if len(values) >= _SMOOTH_FROM:
        axes.plot(steps, values, color=_COLOURS[0], alpha=0.25, linewidth=0.8)
        axes.plot(steps, running_median(values, len(values) // 50), color=_COLOURS[0], linewidth=1.6)
    else:
        axes.plot(steps, values, color=_COLOURS[0], linewidth=1.6)
    top, low = _quantile(values, 0.995), min(values)
    if max(values) > top + 2 * (top - low) > top:  # a spike would flatten all the rest
        axes.set_ylim(low - 0.05 * (top - low), top + 0.15 * (top - low))
    _finish(axes, "loss")


def _draw_probes(axes: Axes, probes: Mapping[str, tuple[list[int], list[float]]]) -> None:
    for i, (name, (steps, values)) in enumerate(probes.items()):
        colour = _COLOURS[(i + 1) % len(_COLOURS)]
        last = f" ({values[-1]:.1f}%)" if values else ""
        axes.plot(
            steps,
            values,
            color=colour,
            linewidth=1.6,
            marker="o",
            markersize=3.5,
            label=name + last,
        )
    axes.legend(frameon=False, fontsize=9)
    _finish(axes, "accuracy (%)")


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel("step")
    axes.set_title(label, loc="left", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: si(x)))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _quantile(values: Sequence[float | int], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
