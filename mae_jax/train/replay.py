"""`mae_jax replay`: one step of a run again, with the weights and the batch it had, and where its numbers break."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.core.errors import UserError
from mae_jax.core.exits import DONE, FAILED
from mae_jax.data.sources import Source
from mae_jax.schema import Config
from mae_jax.train import rollback
from mae_jax.train.build import Run
from mae_jax.train.checkpoint import Restored, read_meta, restore_at, saved_steps
from mae_jax.train.debug import look, told
from mae_jax.train.feed import train_batches
from mae_jax.train.norms import parts
from mae_jax.train.numbers import Numbers, Record, order_at
from mae_jax.train.state import State
from mae_jax.train.writers import read_jsonl

NAMED = 16  # samples that are listed; all are in --output


def replay(
    config: Config, workdir: Path, step: int, build: Callable[[Config], Run], start: Callable[[Run], State] | None,
    output: Path | None = None,
) -> int:  # fmt: skip
    """Run the step that metrics.jsonl calls `step`, from the nearest checkpoint before it, and say what it holds.

    Nothing of the run is changed. On as many devices as the run had, its loss is the run's to the bit.

    Args:
      build, start: how the run is built, and started where no checkpoint is early enough (None: it cannot be).
      output: a JSON file for everything that is said, all samples included.
    Returns: the exit status, FAILED where a number is not finite.
    """
    if jax.process_count() > 1:
        raise UserError("replay runs in one process: start it once, on a machine whose devices hold the run.")
    if not 1 <= step <= config.train.steps:
        raise UserError(f"there is no step {step}: this run has steps 1 to {config.train.steps}.")
    run = build(config)
    source = run.open("train")
    restored, at = nearest(run, workdir, step - 1)
    if restored is None and start is None:
        raise UserError(
            f"no checkpoint of {workdir} is from before step {step}: it has {saved_steps(workdir)}. The run "
            f"started from {config.transfer.init}: give these weights as --weights."
        )
    state = start(run) if restored is None and start is not None else restored.state  # type: ignore[union-attr]
    record = Record.of(None if restored is None else restored.data.get("guard"))
    history = history_of(workdir, record)
    print(f"step {step}, from {f'the checkpoint of step {at}' if at else 'the start'}: {step - at} step(s) to run",
          flush=True)  # fmt: skip
    numbers = Numbers(config.guard, record, int(state["guard"]["skipped"]))
    host: dict[str, Any] = {}
    before, metrics = state, {}
    for number, host in batches(run, source, history, at, step):
        now = run.at(number)
        batch = now.put(host)
        if number == step - 1:
            before = jax.tree.map(jnp.copy, state)  # the step takes over what it is given
        state, metrics = now.step(state, run.frozen, batch, now.method.plan(number), numbers.limit)
        numbers.took(number + 1, metrics)
    found = {name: float(value) for name, value in jax.device_get(metrics).items()}
    text, about = report(workdir, step, found, before["guard"]["skipped"])
    broken = not (math.isfinite(found["loss"]) and math.isfinite(found["grad_norm"]))
    norms = {name.removeprefix("grad_norm/"): x for name, x in found.items() if name.startswith("grad_norm/")}
    if broken or not norms:
        finding = look(run.at(step - 1), before, batch)
        about |= {"broken": finding.broken, "first": finding.first}
        if finding.broken:
            text.append(told(finding))
        if not norms:
            norms = {
                part: math.hypot(*(finding.gradients[path] for path in inside))
                for part, inside in parts(before["params"]).items()
            }
    width = max(map(len, norms))
    text.append("\n".join(["norms of the gradient:", *(f"  {part:<{width}}  {x:.6g}" for part, x in norms.items())]))
    names = [source.where(int(i)) for i in host["index"]]
    more = [f"  and {len(names) - NAMED} more"] if len(names) > NAMED else []
    text.append("\n".join(["samples:", *(f"  {row:>4}  {name}" for row, name in enumerate(names[:NAMED])), *more]))
    print("\n\n".join(text), flush=True)
    if output is not None:
        about |= {"grad_norm_of_parts": rollback.plain(norms), "metrics": rollback.plain(found), "samples": names}
        output.write_text(json.dumps(about, indent=2) + "\n")
    return FAILED if broken else DONE


def nearest(run: Run, workdir: Path, most: int) -> tuple[Restored | None, int]:
    """(the newest good checkpoint of at most `most` steps, its step); (None, 0): there is none."""
    for step in reversed([s for s in saved_steps(workdir) if s <= most]):
        restored = restore_at(workdir, run.shapes, step)
        if restored is not None:
            return restored, step
    return None, 0


def history_of(workdir: Path, record: Record) -> list[list[int]]:
    """The orders of the data of the whole run, as its newest checkpoint or its last roll-back knows them."""
    newest = Record.of(read_meta(workdir)["data"].get("guard")) if saved_steps(workdir) else record
    back = rollback.read(workdir)
    return back.history if back is not None and back.number > newest.number else newest.history


def batches(
    run: Run, source: Source, history: list[list[int]], start: int, stop: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, batch of the host) from `start` up to `stop`, each in the order that held for it."""
    while start < stop:
        order = order_at(history, start)
        until = min([first for first, _ in history if first > start] + [stop])
        with train_batches(run, source, start, order) as found:
            for number in range(start, until):
                yield number, dict(next(found))
        start = until


def report(workdir: Path, step: int, found: dict[str, float], skipped: Any) -> tuple[list[str], dict[str, Any]]:
    """(paragraphs, facts): loss and gradient, and what the run had logged for the step."""
    path = workdir / "metrics.jsonl"
    lines = [r for r in read_jsonl(path) if r["step"] == step and "loss" in r] if path.is_file() else []
    logged = lines[-1]["loss"] if lines else None
    text = f"loss {found['loss']!r}, norm of the gradient {found['grad_norm']!r}, learning rate {found['lr']:g}"
    if found["skipped"] > int(skipped):
        text += "; the update was skipped"
    same = logged is not None and (logged == found["loss"] or (math.isnan(logged) and math.isnan(found["loss"])))
    if logged is None:
        text += "\nmetrics.jsonl has no line for this step."
    elif same:
        text += "\nThe loss is that of metrics.jsonl, to the bit."
    else:
        text += (
            f"\nmetrics.jsonl says {logged!r}: apart by {abs(logged - found['loss']):.3g}. Other devices, another "
            f"number of them or another version round differently."
        )
    return [text], {"step": step, "loss": rollback.plain(found)["loss"], "logged": str(logged), "same": same}
