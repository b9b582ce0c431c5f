"""`mae_jax train --debug`: shapes, where the first NaN appears, and whether one batch can be overfitted."""

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.mesh import use_mesh
from mae_jax.core.types import Batch
from mae_jax.schema import Config
from mae_jax.train.build import Run, build
from mae_jax.train.checkpoint import saved_steps
from mae_jax.train.feed import train_batches
from mae_jax.train.nonfinite import Finding, find
from mae_jax.train.norms import parts
from mae_jax.train.schedules import scaled
from mae_jax.train.state import State, rest_of
from mae_jax.train.warm_start import load_weights, warm_start

FALL = 0.1  # share of the loss that a network must lose on one batch to be said to learn
LAST = 5  # steps whose mean is the loss at the end


def debug(config: Config, workdir: Path | None, steps: int) -> int:
    """Look a run over and train on its first batch alone; nothing is written.

    Args:
      workdir: where it holds checkpoints, the newest one's weights and the batch that follows it are taken.
      steps: of training on the one batch.

    Returns: the exit status, 1 where something is wrong.
    """
    if jax.process_count() > 1:
        raise UserError("--debug looks at one process; leave out --coordinator and start it once.")
    if steps < 2:
        raise UserError(f"--debug {steps}: at least 2 steps are needed to see whether the loss falls.")
    run = build(config)
    source = run.open("train")
    state = start(run, workdir)
    step = int(state["step"])
    run = run.at(step)
    with train_batches(run, source, step) as batches:
        host = next(batches)
    batch = run.put(host)
    _say(f"{run.method.name}: {source.describe()}; batch number {step}, weights of step {step}\n")
    _say(shapes(run, state, host, batch))
    found = look(run, state, batch)
    if found.broken:
        _say(f"\n{told(found)}\nFAILED: loss or gradient not finite.")
        return 1
    _say(f"\nloss {found.loss:.6g} and gradient are finite everywhere.\n\n{norms(state, found)}")
    return overfit(run, state, batch, steps)


def start(run: Run, workdir: Path | None) -> State:
    """The state of the newest checkpoint (with a fresh optimizer), of train.init, or from train.seed."""
    if workdir is None or not saved_steps(workdir):
        return warm_start(run, run.config.train.init) or run.init()
    return run.init() | load_weights(run, workdir)


def look(run: Run, state: State, batch: Batch) -> Finding:
    """Loss and gradient of the step that is due, microbatch by microbatch up to the first that is not finite."""
    train, step = run.config.train, int(state["step"])
    plan, rest = run.method.plan(step), rest_of(state, run.frozen)
    each = train.microbatches
    found = None
    for m in range(each):
        rows = jnp.arange(len(jax.tree.leaves(batch)[0]))[m::each]

        def loss(method: Any, params: Any, rest: Any, part: Batch, rows: Any = rows) -> Any:
            ctx = Context(jax.random.key(train.seed), step, rows, plan=plan, steps=train.steps)
            return method.loss(params, rest, run.augment(part, ctx), ctx)

        with use_mesh(run.mesh):
            found = find(run.method, loss, state["params"], rest, {k: x[m::each] for k, x in batch.items()})
        if found.broken:
            break
    assert found is not None
    return found


def told(found: Finding) -> str:
    """A finding that is not fine, for people."""
    lines = [f"NOT FINITE: {found.broken[0]}"]
    if found.first:
        lines.append(f"It begins {found.first}.")
    what = {text.split()[0] for text in found.broken}
    if "batch" in what:
        lines.append("The batch itself is broken: look at the data (`mae_jax data`), at augment.mean and augment.std.")
    elif "weights" in what:
        lines.append("The weights hold such values already: take an earlier checkpoint, or look at `init`.")
    elif math.isfinite(found.loss):
        lines.append("The loss is finite, its gradient is not: a root, logarithm or division at 0, or a `where` with "
                     "such a branch.")  # fmt: skip
    else:
        lines.append("Large values before it point to optim.learning_rate, optim.clip or train.precision=float32; "
                     "small ones to a logarithm, root or division at 0.")  # fmt: skip
    shown = found.broken[1:9]
    more = [f"  and {len(found.broken) - 9} more"] if len(found.broken) > 9 else []
    return "\n".join([*lines, *(["also:"] if shown else []), *(f"  {text}" for text in shown), *more])


def shapes(run: Run, state: State, host: Mapping[str, Any], batch: Batch) -> str:
    """Tables of parameters by part, of the batch, and of what `encode` and `loss` make of it."""
    rows: list[tuple[str, ...]] = [
        (name, f"{len(found)}", f"{tree.size(found):,}") for name, found in parts(state["params"]).items()
    ]
    text = [_table([("part", "arrays", "parameters"), *rows])]
    step = int(state["step"])
    ctx = Context(jax.random.key(run.config.train.seed), step, plan=run.method.plan(step), steps=run.config.train.steps)
    read = jax.jit(lambda b: run.augment(b, ctx))(batch)
    rows = []
    for name, x in read.items():
        travelled = f"{_shape(host[name])}" if name in host else ""
        values = np.asarray(x, np.float32)
        rows.append((name, travelled, _shape(x), *(f"{f(values):.3g}" for f in (np.min, np.mean, np.std, np.max))))
    text.append(_table([("batch", "from the host", "as the loss reads it", "min", "mean", "std", "max"), *rows]))
    rest = rest_of(state, run.frozen)
    grid: list[int] = []

    def encoded(params: Any, read: Batch) -> dict[str, Any]:
        f = run.method.encode(params, rest, read)
        grid[:] = f.grid
        streams = {f"parts {name}": x for name, x in f.parts.items()}
        levels = {f"level {i}": x for i, x in enumerate(f.levels)}
        return {"tokens": f.tokens, "prefix": f.prefix} | streams | levels | {"each block": f.hidden}

    made = jax.eval_shape(encoded, state["params"], read)
    hidden = made.pop("each block")
    rows = [(name, _shape(x)) for name, x in made.items()]
    rows += [("blocks", f"{len(hidden)} x {_shape(hidden[0])}")] if hidden else []
    text.append(_table([("encode", f"grid {'x'.join(map(str, grid))}"), *rows]))
    seen = jax.eval_shape(lambda p, b: run.method.loss(p, rest, b, _again(ctx))[1].seen, state["params"], read)
    rows = [(name, _shape(x)) for name, x in tree.flatten(seen).items()]
    text.append(_table([("loss sees", ""), *rows]))
    return "\n\n".join(text)


def norms(state: State, found: Finding) -> str:
    """Norms of each part's gradient and weights, and which arrays get no gradient."""
    rows = []
    for name, inside in parts(state["params"]).items():
        gradient = math.hypot(*(found.gradients[path] for path in inside))
        weights = math.hypot(*(float(jnp.linalg.norm(x.ravel())) for x in inside.values()))
        rows.append((name, f"{gradient:.3g}", f"{weights:.3g}"))
    zero = [path for path, norm in found.gradients.items() if norm == 0]
    note = f"\nno gradient reaches: {_some(zero)}" if zero else ""
    return _table([("part", "gradient norm", "weight norm"), *rows]) + note


def overfit(run: Run, state: State, batch: Batch, steps: int) -> int:
    """Train on one batch, with the same draws at each step and the peak learning rate; says whether the loss falls."""
    train, optim = run.config.train, run.config.optim
    peak = scaled(optim.learning_rate, train.batch, optim.scaling)
    constant = dataclasses.replace(run, rate=lambda step: jnp.float32(peak))
    at = state["step"]
    number, plan = int(at), run.method.plan(int(at))
    _say(f"\none batch of {train.batch}, {steps} steps, {optim.name} at a constant learning rate of {peak:.3g}:")
    losses: list[float] = []
    moved: dict[str, float] = {}
    for i in range(steps):
        state, metrics = constant.step(state, run.frozen, batch, plan)
        state |= {"step": jax.device_put(jnp.asarray(number, jnp.int32), at.sharding)}
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        losses.append(values["loss"])
        if i == 0:
            moved = {name: x for name, x in values.items() if name.startswith("update_norm/")}
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            _say(f"  step {i + 1}: loss {values['loss']:.6g}, gradient norm {values['grad_norm']:.6g}")
            found = look(run, state, batch)  # the guard has kept the weights that gave it
            if found.broken:
                _say(told(found))
            _say(f"FAILED: not finite after {i} step(s) on one batch: a lower optim.learning_rate, optim.clip=1?")
            return 1
        if i + 1 in _shown(steps):
            _say(f"  step {i + 1:>5}  loss {values['loss']:.6g}  gradient norm {values['grad_norm']:.4g}")
    return verdict(losses, moved)


def verdict(losses: Sequence[float], moved: Mapping[str, float]) -> int:
    """Print what the losses say -> the exit status."""
    last = float(np.mean(losses[-min(LAST, len(losses) // 2) :]))
    fell = (losses[0] - last) / max(abs(losses[0]), 1e-12)
    if fell >= FALL:
        _say(f"OK: the loss fell by {fell:.1%} ({losses[0]:.4g} to {last:.4g}).")
        return 0
    hints = ["more steps (--debug N)"]
    if fell < -0.01:
        hints.insert(0, "a lower optim.learning_rate")
    elif moved and max(moved.values()) < 1e-4:
        hints.insert(0, "a higher optim.learning_rate (all updates are small: " + _some(
            [f"{name} {x:.1e}" for name, x in moved.items()]) + ")")  # fmt: skip
    hints += [
        "whether the target can be predicted from what is visible",
        "whether `loss` reads `params` (no gradient?)",
    ]
    change = f"rose by {-fell:.1%}" if fell < 0 else f"fell by {fell:.1%} only"
    _say(f"FAILED: the loss {change} ({losses[0]:.4g} to {last:.4g}) on one batch. Try: {'; '.join(hints)}.")
    return 1


def _shown(steps: int) -> set[int]:
    """Which steps are printed: 1, 2, 5, 10, 20, 50, ... and the last."""
    return {d * 10**e for e in range(7) for d in (1, 2, 5) if d * 10**e <= steps} | {steps}


def _again(ctx: Context) -> Context:
    return Context(jax.random.key(0), ctx.step, plan=ctx.plan, steps=ctx.steps)


def _shape(x: Any) -> str:
    return f"{tuple(x.shape)} {x.dtype}"


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _table(rows: Iterable[Sequence[str]]) -> str:
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells]
    return "\n".join(["  " + line for line in [lines[0], "-" * max(map(len, lines)), *lines[1:]]])


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)
