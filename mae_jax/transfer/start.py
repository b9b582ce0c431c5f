"""How a classifier starts from pretrained weights, and how it becomes a weights file."""

import dataclasses
import math
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.config import make_method, resolve
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import replicated
from mae_jax.methods.base import Method
from mae_jax.schema import Transfer
from mae_jax.train.build import Run, sample_batch
from mae_jax.train.state import State
from mae_jax.transfer.finetune import HEAD, FineTune
from mae_jax.weights.store import Weights, learned_positions

SCRATCH = "scratch"  # transfer.init of a run that started from random weights


def identity(weights: Weights | None) -> str:
    """Name and content of the weights that a run starts from: a run is not resumed with others."""
    if weights is None:
        return SCRATCH
    digest = 0
    for path, array in sorted(tree.flatten(weights.params).items()):
        digest = zlib.crc32(f"{path} {array.shape} {array.dtype}".encode(), digest)
        digest = zlib.crc32(np.ascontiguousarray(array).tobytes(), digest)
    name = str(weights.info.get("source") or "weights").rstrip("/").split("/")[-1]
    step = weights.info.get("step")
    return f"{name}{'' if step is None else f' step {step}'}, crc32 {digest:08x}"


def start(run: Run, weights: Weights | None, fresh: State | None = None) -> State:
    """A fresh state (`fresh`; None: from train.seed) with the encoder of `weights`; None: random, the same positions.

    Raises:
      UserError: parameters that the encoder needs and the weights do not have, or have in another shape.
    """
    state = run.init() if fresh is None else dict(fresh)
    method = run.method
    assert isinstance(method, FineTune)
    parts = {part: state[part] for part in ("params", "stats")}
    state |= encoder(parts, method.inner, weights, run.config.transfer.fresh)
    if run.averaging:
        state["ema"]["average"] = jax.tree.map(jnp.copy, state["params"])
    return state


def encoder(fresh: dict[str, Any], inner: Method, weights: Weights | None, anew: Sequence[str] = ()) -> dict[str, Any]:
    """`fresh` {"params", "stats"} with the arrays of `weights` in their places; None: as it is.

    Parameters that one of the regular expressions `anew` is found in stay as they are.

    Positions are resampled where `inner` has another grid. Raises UserError: as `start`.
    """
    old = inner if weights is None else make_method(resolve(_plain(weights.config)))
    found = {} if weights is None else {**tree.flatten(weights.params)}
    statistics = {} if weights is None else tree.flatten(weights.stats)
    wrong: list[str] = []
    keep = lambda path: any(re.search(pattern, path) for pattern in anew)
    own = {path: x for path, x in tree.flatten(fresh["params"]).items() if not keep(path)}
    params = _taken(tree.unflatten(own), found, wrong, old, inner, scratch=weights is None)
    params = tree.unflatten(tree.flatten(fresh["params"]) | tree.flatten(params))
    stats = _taken(fresh["stats"], statistics, wrong, old, inner, scratch=weights is None)
    if wrong:
        source = "" if weights is None else f" in {weights.info.get('source', 'the file')}"
        raise UserError(
            f"the weights{source} do not fit the encoder in {len(wrong)} array(s), first: {'; '.join(wrong[:3])}. "
            f"Leave out what changes the model: of its sizes only method.image_size may change. What the weights lack "
            f"and shall start anew is named in transfer.fresh, as --config.transfer.fresh=\"('class_token',)\"."
        )
    return {"params": params, "stats": stats}


def _taken(
    fresh: Any, found: dict[str, Any], wrong: list[str], old: Method, new: Method, *, scratch: bool
) -> dict[str, Any]:
    """`fresh` with the arrays found in its place, laid out as it is."""

    def one(path: str, x: jax.Array) -> jax.Array:
        if path.split("/")[0] in HEAD:
            return x
        array = found.get(path)
        if path.endswith("pos_embed") and (array is None or array.shape != x.shape):
            rows = x.shape[-2] - math.prod(getattr(new, "grid", ()))
            array = learned_positions(array, old, new, rows, x.shape[-1])
        elif scratch:
            return x
        if array is None or array.shape != x.shape:
            wrong.append(f"{path}: {'missing' if array is None else array.shape}, the encoder has {x.shape}")
            return x
        return jax.device_put(np.asarray(array, x.dtype), x.sharding)

    return tree.map_with_path(one, fresh)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what only a transfer run reads."""
    return config | {"transfer": dataclasses.asdict(Transfer())}


def as_weights(run: Run, params: Any, stats: Any, info: dict[str, Any], classes: tuple[str, ...]) -> Weights:
    """A fine-tuned classifier as a weights file's content: the encoder under its method's names, and the head.

    What of the encoder's parts the head does not read (MAE's last norm, with mean pooling) is as initialised, so that
    `Method.encode` can run.
    """
    method = run.method
    assert isinstance(method, FineTune)
    here = jax.jit(lambda x: x, out_shardings=replicated(run.mesh))  # of several processes each has parts
    host = {path: np.asarray(x) for path, x in tree.flatten(here(params)).items()}
    parts = {path.split("/")[0] for path in method.reach.params}
    missing = [p for p in tree.flatten(method.reach.all_params) if p.split("/")[0] in parts and p not in host]

    def initial() -> dict[str, Any]:
        flat = tree.flatten(method.inner.init(jax.random.key(0), sample_batch(method.inner))[0])
        return {path: flat[path] for path in missing}

    host |= {path: np.asarray(x) for path, x in jax.device_get(jax.jit(initial)()).items()}
    encoder = {path: x for path, x in host.items() if path.split("/")[0] not in HEAD}
    head = {path: x for path, x in host.items() if path.split("/")[0] in HEAD}
    transfer = dataclasses.asdict(run.config.transfer)
    about = {"kind": "classifier", "norm_pix": None, "init": transfer["init"], "recipe": transfer["recipe"],
             "head": {"pool": method.pool, "classes": list(classes), "multilabel": method.multilabel}}  # fmt: skip
    return Weights(
        _plain(run.config.to_dict()), tree.unflatten(encoder), jax.tree.map(np.asarray, here(stats)),
        head={"params": tree.unflatten(head)}, info=about | info,
    )  # fmt: skip


def fitted(values: Any, shapes: Any, what: str, place: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """The leaves of `values` that `shapes` has, each through place(array, shape).

    Raises:
      UserError: one that is missing or of another shape.
    """
    flat = tree.flatten(values)
    wrong = [
        f"{path}: {flat[path].shape if path in flat else 'missing'}, expected {s.shape}"
        for path, s in tree.flatten(shapes).items()
        if path not in flat or flat[path].shape != s.shape
    ]
    if wrong:
        raise UserError(f"{what} does not fit the config in {len(wrong)} array(s), first: {'; '.join(wrong[:3])}.")
    return tree.unflatten({path: place(flat[path], s) for path, s in tree.flatten(shapes).items()})
