"""One train step for every method: microbatches, gradient, optimizer, averages, guard. It knows no paper."""

from collections.abc import Callable, Hashable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.mesh import FROZEN_RULES, batch_shards
from mae_jax.core.types import Batch, Params
from mae_jax.methods.base import Method, own_rules
from mae_jax.train.apart import accumulate_apart, independent, without_fsdp
from mae_jax.train.norms import part_norms
from mae_jax.train.schedules import Schedule
from mae_jax.train.state import State
from mae_jax.train.sums import accumulate

Step = Callable[..., tuple[State, dict[str, Array]]]


def make_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    rate: Schedule,
    augment: Callable[[Batch, Context], Batch],
    *,
    seed: int,
    microbatches: int = 1,
    average: float = 0.0,
    whole: bool = False,
    steps: int | None = None,
    norms: bool = False,
    mesh: Mesh | None = None,
    by_step: bool | None = None,
    wire: Literal["float32", "bfloat16"] = "float32",
) -> Step:
    """Build `step(state, frozen, batch, plan, limit) -> (state, metrics)`, pure and ready to jit.

    A loss above `limit` (train/numbers.py; None: no limit) is passed over as one that is not finite is.

    Its tracing raises UserError where a metric is no scalar.

    Args:
      optimizer: gives a direction; the step subtracts rate(step) times it. Its `update` may take `step` and `rate`.
      rate: learning rate of a step.
      augment: what happens to a batch on the device, before the loss.
      microbatches: in how many parts the batch runs; the result does not depend on it (but for batch-norm).
      whole: whether `augment` needs the whole batch (mixing); then it comes before the batch is cut into parts.
      average: decay of the running average of the weights; 0 keeps none.
      steps: length of the schedule, for methods that ask (`Context.steps`).
      norms: whether the metrics hold the norms of each part's gradient and update (train/norms.py).
      mesh: where samples that nothing ties together are computed apart, device by device (train/apart.py); None: the
        global program is left to XLA, as it is for methods that couple samples.
      by_step, wire: when parameters are gathered, and in which precision gradients travel (train/apart.py).
    """
    spread = mesh is not None and batch_shards(mesh) > 1
    optimizer = optax.with_extra_args_support(optimizer)
    rules = (*FROZEN_RULES, *own_rules(method, "lies"))

    def step(
        state: State, frozen: Params, batch: Batch, plan: Hashable = None, limit: Array | None = None,
        given: dict[str, Array] | None = None,
    ) -> tuple[State, dict[str, Array]]:  # fmt: skip
        key = jax.random.key(seed)
        context = lambda rows, step=state["step"]: Context(key, step, rows, plan=plan, steps=steps, given=given)

        first = whole and (microbatches > 1 or spread)
        if first:
            batch = augment(batch, context(None))

        def loss(params, stats, held, part, rows):
            ctx = context(rows, held["step"])
            rest = {"stats": stats, "ema": held["ema"], "frozen": held["frozen"]}
            value, aux = method.loss(params, rest, part if first else augment(part, ctx), ctx)
            weight = jnp.asarray(aux.weight, jnp.float32)
            # "loss" is what is differentiated, whatever a method calls so: the guard reads it.
            metrics = aux.metrics | {"loss": value}
            for name, x in metrics.items():
                if jnp.shape(x):
                    raise UserError(
                        f"the loss of '{method.name}' returns the metric '{name}' of shape {jnp.shape(x)}; a scalar is "
                        f"expected, as it is logged as one number: take its mean, or put it into Aux.seen."
                    )
            return value * weight, (aux.stats, metrics, weight)

        held = {"step": state["step"], "ema": state["ema"]["teacher"], "frozen": frozen}
        # The gradient of layers that run as a loop comes stacked, and is summed and measured so: a program per kind of
        # parameter and not per layer, and no copies.
        stacks = tree.stacks(state["params"]) if method.compute.scan else {}
        if mesh is not None and spread and independent(method, state["stats"]) and given is None:
            sums = accumulate_apart(
                loss, state["params"], held, batch, microbatches,
                mesh=mesh, dtype=method.compute.dtype, stacks=stacks, rules=rules, by_step=by_step, wire=wire,
            )  # fmt: skip
        else:
            read = {"params": state["params"], "held": held}
            if mesh is not None:
                read = without_fsdp(read, mesh, rules)
            sums = accumulate(loss, read["params"], state["stats"], read["held"], batch, microbatches, stacks=stacks)
        grads, stats, metrics = sums.means()
        lr = rate(state["step"])
        metrics |= {"grad_norm": optax.tree.norm(grads), "lr": lr}
        if norms:
            metrics |= part_norms("grad_norm", grads)
        grads = tree.unstack_layers(grads, stacks)
        ok = acceptable(metrics, limit)
        direction, opt = optimizer.update(grads, state["opt"], state["params"], step=state["step"], rate=lr)
        update = jax.tree.map(lambda d: jnp.where(ok, lr * d, 0), direction)
        params = jax.tree.map(jnp.subtract, state["params"], update)
        ema = {"teacher": method.evolve(state["ema"]["teacher"], params, stats, context(None).fork("evolve"))}
        if average:
            ema["average"] = jax.tree.map(
                lambda old, new: average * old + (1 - average) * new, state["ema"]["average"], params
            )
        if norms:
            # Of the weights' own movement: for that of `update` a TPU's compiler writes it out, and reads it twice.
            metrics |= part_norms("update_norm", jax.tree.map(jnp.subtract, state["params"], params))
        rest = {"stats": stats, "ema": ema, "opt": opt}
        rest = jax.tree.map(lambda new, old: jnp.where(ok, new, old), rest, {name: state[name] for name in rest})
        skipped = state["guard"]["skipped"] + jnp.where(ok, 0, 1)
        counts = {"step": state["step"] + 1, "guard": {"skipped": skipped}}
        return {"params": params} | rest | counts, metrics | {"skipped": skipped}

    return step


def acceptable(metrics: dict[str, Array], limit: Array | None = None) -> Array:
    """Whether a step counts: loss and gradient are finite and the loss is at most `limit`. Else the whole state stays
    as it was (an update of 0), is counted as skipped, and training goes on.
    """
    ok = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    return ok if limit is None else ok & (metrics["loss"] <= limit)
