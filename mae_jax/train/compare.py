"""Learning curves of several runs in one figure, from their metrics.jsonl alone."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from mae_jax.core.errors import UserError, nearest
from mae_jax.eval.figures import COLOURS, finish, panels
from mae_jax.train.plots import draw_line, limit_spikes, series
from mae_jax.train.progress import si
from mae_jax.train.writers import read_jsonl

AXES = {"step": "step", "samples": "samples seen", "hours": "hours of training"}
APART = ("log", "checkpoint", "mesh")  # sections that change no curve, and so name none
MOST = 3  # keys in a label; with more differences the runs' names say more
POINTS = 60  # with so few points in a curve, each is marked


@dataclasses.dataclass(frozen=True)
class History:
    """What a run logged.

    Attributes:
      records: the lines of metrics.jsonl. config: config.json as it is; {} where there is none.
    """

    path: Path
    records: list[dict[str, Any]]
    config: dict[str, Any]

    @property
    def metrics(self) -> list[str]:
        return sorted({name for record in self.records for name in record} - {"step"})

    def along(self, x: str, steps: Sequence[int]) -> list[float]:
        """Steps as samples or as hours of training, without the time of evaluations and checkpoints.

        Hours are the sum of samples over the logged rate (images_per_second) between logged steps; compilation is in
        the first of them.

        Raises:
          UserError: the batch, or the rate, is not known.
        """
        if x == "step":
            return [float(step) for step in steps]
        batch = self.config.get("train", {}).get("batch")
        if batch is None:
            raise UserError(f"{self.path} has no config.json with train.batch, so --x {x} is not known: take --x step.")
        if x == "samples":
            return [float(step) * batch for step in steps]
        known, rates = series(self.records, "images_per_second")
        if not known:
            raise UserError(f"{self.path} logged no images_per_second, so --x hours is not known: take --x step.")
        spent = np.cumsum(np.diff([0, *known]) * batch / np.asarray(rates)) / 3600
        return np.interp(steps, [0, *known], [0.0, *spent]).tolist()


def read_run(path: str | Path) -> History:
    """A run's record.

    Raises:
      UserError: it has no metrics.jsonl.
    """
    path = Path(path)
    records = read_jsonl(path / "metrics.jsonl")
    config = path / "config.json"
    try:
        return History(path, records, json.loads(config.read_text()) if config.is_file() else {})
    except ValueError as error:
        raise UserError(
            f"{config} is no JSON ({error}). Mend or remove it; without it curves have only names."
        ) from None


def labels(runs: Sequence[History]) -> list[str]:
    """What tells the runs apart: what differs between their configs, or else their names.

    Up to `MOST` keys, as "mask_ratio 0.5, seed 1" (with the section where two of them have the same name); names where
    more differ, where a config is missing, or where two configs are equal.
    """
    names = _names([run.path for run in runs])
    flat = [_flat(run.config) for run in runs]
    if len(runs) == 1 or not all(flat):
        return names
    keys = [key for key in {k: None for config in flat for k in config} if len({_text(c.get(key)) for c in flat}) > 1]
    # The name of the method or the source decides over its fields: these differ because it does.
    for leader in ("method.name", "data.source"):
        if leader in keys:
            keys = [
                k for k in keys if k == leader or k.split(".")[0] != leader.split(".")[0] or all(k in c for c in flat)
            ]
    if not keys or len(keys) > MOST:
        return names
    short = [key.split(".", 1)[1] for key in keys]
    shown = [s if short.count(s) == 1 and s != "name" else key for s, key in zip(short, keys)]
    found = [
        ", ".join(f"{name} {_text(config[key])}" for name, key in zip(shown, keys) if key in config) for config in flat
    ]
    return found if len(set(found)) == len(found) else [f"{n}: {f}" for n, f in zip(names, found)]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, keys in config.items()
        if section not in APART and isinstance(keys, Mapping)
        for key, value in keys.items()
    }


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _names(paths: Sequence[Path]) -> list[str]:
    """The directories' names, with as many parents as it takes to tell them apart."""
    parts = [path.absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def compare(
    runs: Sequence[History],
    metrics: Sequence[str] = ("loss",),
    *,
    x: str = "step",
    smooth: int | None = None,
    log: str = "",
    names: Sequence[str] = (),
) -> Figure:
    """A panel per metric, a curve per run.

    Args:
      x: "step", "samples" or "hours".
      smooth: width of a running median in points, over the pale raw curve; None: as `plots.draw_line` chooses.
      log: axes that are logarithmic, of "x" and "y".
      names: of the runs (default: `labels`).

    Raises:
      UserError: no run has a metric (names the nearest), or an axis that is not known.
    """
    if x not in AXES:
        raise UserError(f"--x {x}: {nearest(x, AXES)}")
    names = list(names) or labels(runs)
    if len(names) != len(runs):
        raise UserError(f"{len(names)} label(s) for {len(runs)} run(s): give one each.")
    every = sorted({name for run in runs for name in run.metrics})
    figure, axes = panels(len(metrics))
    scale, along = 1.0, AXES[x]
    if x == "hours" and max(run.along(x, [run.records[-1]["step"]])[0] for run in runs if run.records) < 1:
        scale, along = 60.0, "minutes of training"
    for panel, metric in zip(axes, metrics):
        curves = curves_of(runs, metric, x)
        if not any(len(values) for _, values in curves):
            raise UserError(f"none of the runs has logged a finite '{metric}'. {nearest(metric, every)}")
        absent = [name for name, (_, values) in zip(names, curves) if not len(values)]
        if absent:
            print(f"not drawn, since they have no '{metric}': {', '.join(absent)}", file=sys.stderr)
        for i, (name, (position, values)) in enumerate(zip(names, curves)):
            if len(values):
                marker = {"marker": "o", "markersize": 3} if len(values) <= POINTS and not smooth else {}
                draw_line(
                    panel,
                    (scale * position).tolist(),
                    values.tolist(),
                    _colour(i, len(runs)),
                    smooth=smooth,
                    label=name,
                    **marker,
                )
        for axis in log:
            _logarithmic(panel, axis, metric, curves)
        if "y" not in log:
            limit_spikes(panel, [values.tolist() for _, values in curves])
        finish(panel, metric, along, si)
    columns = min(len(runs), 4) if max(map(len, names)) < 30 else 1
    handles = {str(h.get_label()): h for panel in axes for h in panel.get_legend_handles_labels()[0]}
    shown = [name for name in names if name in handles]
    figure.legend(
        [handles[name] for name in shown], shown, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    return figure


def curves_of(
    runs: Sequence[History], metric: str, x: str = "step"
) -> list[tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
    """(positions, values) of a metric per run, as they are drawn before smoothing."""
    found = []
    for run in runs:
        steps, values = series(run.records, metric)
        found.append((np.asarray(run.along(x, steps) if steps else [], float), np.asarray(values, float)))
    return found


def _colour(i: int, count: int) -> Any:
    return COLOURS[i] if count <= len(COLOURS) else colormaps["viridis"](i / (count - 1))


def _logarithmic(panel: Any, axis: str, metric: str, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    least = min(found[axis == "y"].min() for found in curves if len(found[1]))
    if least <= 0:
        what = f"'{metric}'" if axis == "y" else "the axis along"
        raise UserError(
            f"{what} has values of 0 or below, which no logarithmic axis can show: leave {axis} out of --log."
        )
    (panel.set_yscale if axis == "y" else panel.set_xscale)("log")
    ruler = panel.yaxis if axis == "y" else panel.xaxis
    ruler.set_tick_params(which="minor", pad=5.0)  # in line with the labels of the longer ticks
    ruler.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    ruler.set_minor_formatter(FuncFormatter(lambda value, _: si(value) if f"{value:e}"[0] in "25" else ""))
