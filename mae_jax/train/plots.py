"""curves.png: what a run's loss and probe accuracies did, drawn from metrics.jsonl alone."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from mae_jax.core.errors import UserError
from mae_jax.eval.figures import COLOURS, finish, panels, save
from mae_jax.train.progress import si
from mae_jax.train.writers import read_jsonl

SCORES = ("probe/", "val/top", "val/average_top")  # percent: of probes, and of a classifier
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
    names = sorted({name for record in records for name in record if name.startswith(SCORES)})
    probes = {name.removeprefix("probe/"): series(records, name) for name in names}
    if not losses[0] and not probes:
        raise UserError(f"{source} holds no 'loss' and no 'probe/...' values to draw yet. Train some steps first.")
    figure, axes = panels((1 if losses[0] else 0) + (1 if probes else 0))
    if losses[0]:
        _draw_loss(axes[0], *losses)
    if probes:
        _draw_probes(axes[-1], probes)
    figure.suptitle(workdir.absolute().name, fontsize=11, color="#333333")
    return save(figure, workdir / "curves.png")


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


def draw_line(axes: Axes, x: Sequence[float | int], values: Sequence[float], colour: str, **more: Any) -> None:
    """A curve; a long one as its running median over the pale raw values. `more` goes to the line with the label."""
    width = more.pop("smooth", None)
    if width is None:
        width = len(values) // 50 if len(values) >= _SMOOTH_FROM else 1
    if width > 1:
        axes.plot(x, values, color=colour, alpha=0.25, linewidth=0.8)
        values = running_median(values, width)
    axes.plot(x, values, color=colour, linewidth=1.6, **more)


def limit_spikes(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Leave out of sight what would flatten all the rest: single values far above the 99.5th percentile."""
    found = [values for values in curves if len(values)]
    if not found:
        return
    top, low, most = max(_quantile(v, 0.995) for v in found), min(map(min, found)), max(map(max, found))
    if most > top + 2 * (top - low) > top:
        axes.set_ylim(low - 0.05 * (top - low), top + 0.15 * (top - low))


def _draw_loss(axes: Axes, steps: list[int], values: list[float]) -> None:
    draw_line(axes, steps, values, COLOURS[0])
    limit_spikes(axes, [values])
    finish(axes, "loss", "step", si)


def _draw_probes(axes: Axes, probes: Mapping[str, tuple[list[int], list[float]]]) -> None:
    for i, (name, (steps, values)) in enumerate(probes.items()):
        last = f" ({values[-1]:.1f}%)" if values else ""
        draw_line(
            axes, steps, values, COLOURS[(i + 1) % len(COLOURS)], smooth=1, marker="o", markersize=3.5,
            label=name + last,
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=9)
    finish(axes, "accuracy (%)", "step", si)


def _quantile(values: Sequence[float | int], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
