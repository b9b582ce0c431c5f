"""Weights of another run: to start from, to evaluate, to draw."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.train.build import Run
from mae_jax.train.checkpoint import restore_arrays
from mae_jax.train.checkpoint_meta import checkpoint_directory
from mae_jax.train.state import State

PARTS = ("step", "params", "stats", "ema")


def warm_start(run: Run, source: str | None) -> State | None:
    """A fresh state whose parameters and statistics come from weights (None: nothing): the newest checkpoint of a
    workdir, or a weights file of ours or a published one.

    A file that holds an encoder alone starts the encoder, and what else the method has starts fresh; which is said.
    The optimizer starts anew; averages start from the loaded weights.
    """
    if source is None:
        return None
    loaded = load_weights(run, Path(source)) if checkpoint_directory(source).is_dir() else _from_file(run, source)
    state = run.init()
    fresh = sorted(set(state["params"]) - set(loaded["params"]))
    if fresh and jax.process_index() == 0:
        parts = ", ".join(sorted(loaded["params"]))
        print(f"train.init: {parts} from {source}; {', '.join(fresh)} fresh", file=sys.stderr, flush=True)
    state |= {part: state[part] | loaded[part] for part in ("params", "stats")}
    ema: dict[str, Any] = {"teacher": run.method.start_ema(state["params"], state["stats"])}
    if run.averaging:
        ema["average"] = jax.tree.map(jax.numpy.copy, state["params"])
    return state | {"ema": jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), ema, run.shapes["ema"])}


# Fields that no shape of a weight shows.
SAME = ("heads", "decoder_heads", "activation", "norm_eps", "class_token", "transposed")


def _from_file(run: Run, source: str) -> dict[str, Any]:
    """{"params", "stats"} of a weights file, whole parts of the method's, laid out on the mesh."""
    from mae_jax.weights import store  # reading published files is a room above: the one import that goes up

    weights = store.fit_positions(store.open_weights(source), run.method)
    theirs = weights.config["method"]
    differ = [f"method.{key}={getattr(run.method, key)!r} here and {theirs[key]!r} there" for key in SAME
              if key in theirs and getattr(run.method, key, theirs[key]) != theirs[key]
              and (key != "decoder_heads" or "decoder" in weights.params)]  # fmt: skip
    if differ:
        raise UserError(
            f"train.init='{source}' holds weights of another network: {'; '.join(differ)}. Set those of the weights."
        )
    colours = weights.config.get("augment", {})
    for key in ("mean", "std"):
        here = getattr(run.config.augment, key)
        if key in colours and not np.allclose(colours[key], here) and jax.process_index() == 0:
            made_for = f"inputs of augment.{key}={tuple(colours[key])}, this run has {here}"
            print(f"train.init: {source} is made for {made_for}", file=sys.stderr, flush=True)
    params = {part: x for part, x in weights.params.items() if part in run.shapes["params"]}
    if not params:
        raise UserError(
            f"train.init='{source}' holds {', '.join(weights.params)}, and '{run.method.name}' has "
            f"{', '.join(run.shapes['params'])}: nothing of it can start this run."
        )
    saved = {"step": np.zeros((), np.int32), "params": params, "stats": weights.stats}
    loaded = place_weights(run, saved, source, mend="Set the sizes of the weights (`mae_jax convert FILE` shows them).",
                           partial=True)  # fmt: skip
    missing = [path for part in params for path in tree.flatten({part: run.shapes["params"][part]})
               if path not in tree.flatten(loaded["params"])]  # fmt: skip
    if missing:
        raise UserError(f"train.init='{source}' lacks {', '.join(missing[:3])} ({len(missing)} arrays) of this method.")
    return loaded


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
