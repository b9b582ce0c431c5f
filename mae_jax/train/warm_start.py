"""Weights of another run: to start from, to evaluate, to draw."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.train.build import Run
from mae_jax.train.checkpoint import restore_arrays
from mae_jax.train.state import State

PARTS = ("step", "params", "stats", "ema")


def warm_start(run: Run, workdir: str | None) -> State | None:
    """A fresh state whose parameters and statistics come from the newest checkpoint of `workdir` (None: nothing).

    The optimizer starts anew; averages start from the loaded weights.
    """
    if workdir is None:
        return None
    state = run.init()
    loaded = load_weights(run, Path(workdir))
    state |= {"params": loaded["params"], "stats": loaded["stats"]}
    ema: dict[str, Any] = {"teacher": run.method.start_ema(state["params"], state["stats"])}
    if run.averaging:
        ema["average"] = jax.tree.map(jax.numpy.copy, state["params"])
    return state | {"ema": jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), ema, run.shapes["ema"])}


def load_weights(run: Run, workdir: Path, step: int | None = None) -> dict[str, Any]:
    """{"step", "params", "stats", "ema"} of a checkpoint, laid out on the run's mesh; no optimizer state is read.

    Raises:
      UserError: no checkpoint, or weights that do not have the shapes of this config.
    """
    saved = restore_arrays(workdir, step, subtree=PARTS)
    return place_weights(
        run, saved, str(workdir), mend=f"Use the config in {workdir}/config.json, or one with the same model."
    )


def place_weights(
    run: Run, saved: Mapping[str, Any], source: str, *, mend: str, partial: bool = False
) -> dict[str, Any]:
    """{"step", "params", "stats", "ema"} from numpy trees, laid out on the run's mesh.

    Args:
      source: where they come from, for messages. mend: what to do where they do not fit.
      partial: parameters may be missing (an encoder without its decoder); those are left out.

    Raises:
      UserError: weights that do not have the shapes of this config.
    """
    flat = tree.flatten(saved)
    shapes = tree.flatten({part: run.shapes[part] for part in PARTS})
    optional = ("ema", "params", "stats", "step") if partial else ("ema/average",)
    wrong = [
        f"{path}: {flat[path].shape if path in flat else 'missing'}, the config has {shape.shape}"
        for path, shape in shapes.items()
        if (path in flat or not path.startswith(optional)) and (path not in flat or flat[path].shape != shape.shape)
    ]
    if wrong:
        raise UserError(
            f"the weights in {source} do not fit this config in {len(wrong)} array(s), first: {'; '.join(wrong[:3])}. "
            f"{mend}"
        )
    placed = {path: jax.device_put(flat[path], s.sharding) for path, s in shapes.items() if path in flat}
    weights: dict[str, Any] = {part: {} for part in PARTS} | tree.unflatten(placed)
    return weights | {"ema": {"teacher": {}} | weights["ema"]}  # empty dicts have no path
