"""The train state: plain dicts {step, params, stats, ema: {teacher, average}, opt, guard}.

The evaluation average belongs to training, the teacher to the method.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mae_jax.core.types import Batch, Params
from mae_jax.methods.base import Method

State = dict[str, Any]


def init_state(
    method: Method, optimizer: optax.GradientTransformation, key: Array, batch: Batch, *, average: bool = False
) -> State:
    """A fresh state. Pure, so that it can be shape-evaluated, and jitted with output shardings.

    Args:
      batch: arrays of the right shapes; their values do not matter.
      average: whether an average of the weights is kept for evaluation.
    """
    params, stats = method.init(key, batch)
    ema: dict[str, Any] = {"teacher": method.start_ema(params, stats)}
    if average:
        ema["average"] = jax.tree.map(jnp.copy, params)
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "stats": stats,
        "ema": ema,
        "opt": optimizer.init(params),
        "guard": {"skipped": jnp.zeros((), jnp.int32)},
    }


def rest_of(state: State, frozen: Params) -> dict[str, Any]:
    """What a method's loss and encode read besides the parameters; `frozen` is `Run.frozen`."""
    return {"stats": state["stats"], "ema": state["ema"]["teacher"], "frozen": frozen}
