"""Going back to a checkpoint with another order of the data, and giving a run up: where to, and what is written of it.

WORKDIR/guard/ holds rollback.json (the record of the last roll-back, by which a run that is killed right after it goes
on as if it had not been), rollbacks.jsonl (one line for each, for people) and, of a run that was given up, step_N.json
and step_N.npz: the first step that went wrong and its batch.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.data.sources import Source
from mae_jax.train.build import Run
from mae_jax.train.feed import train_batches
from mae_jax.train.full_disk import replace_text
from mae_jax.train.numbers import Numbers, Record, order_at

FOLDER = "guard"


def record_of(workdir: Path, step: int, saved: Mapping[str, Any] | None) -> Record:
    """The record of a run that goes on from `step`: the checkpoint's, or a newer one of a roll-back to it.

    Args:
      saved: as the checkpoint has it; None: there is no checkpoint, or an older version wrote it.
    """
    record = Record.of(saved)
    written = read(workdir)
    if written is None or written.number <= record.number:
        return record
    if written.at == step:
        return written
    # Rolled back to a checkpoint that has been lost since: what comes is that one's future, but no order comes twice.
    record.number, record.tries, record.trouble = written.number, written.tries, written.trouble
    return record


def read(workdir: Path) -> Record | None:
    """The record of the last roll-back; None: there was none, or its file cannot be read."""
    try:
        return Record.of(json.loads((workdir / FOLDER / "rollback.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def target(steps: Sequence[int], first_bad: int, tries: int) -> int:
    """The step to go back to: the newest checkpoint before `first_bad`, an older one at each further try; 0: anew."""
    good = [step for step in sorted(steps) if step < first_bad]
    return good[max(len(good) - 1 - tries, 0)] if good else 0


def roll_back(workdir: Path, numbers: Numbers, steps: Sequence[int]) -> Record:
    """Decide where to go back to, write it down and say so -> the record with which the run goes on from `record.at`.

    Args:
      steps: of the checkpoints.
    """
    assert numbers.first_bad is not None
    first, metrics = numbers.first_bad
    record, tries = numbers.record, numbers.record.tries
    last = first + record.streak - 1
    to = target(steps, first, tries)
    record.rolled_back(to, trouble=last)
    if jax.process_index() == 0:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "from": first, "until": last, "to": to,
                "order": record.number, "try": record.tries, "metrics": plain(metrics)}  # fmt: skip
        (workdir / FOLDER).mkdir(exist_ok=True)
        with open(workdir / FOLDER / "rollbacks.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        write(workdir / FOLDER / "rollback.json", record.to_json())
        print(
            f"mae_jax: {wrong(numbers.settings.spike, metrics, first, last)} Going back to "
            f"{f'the checkpoint of step {to}' if to else 'the start'} with another order of the data "
            f"(try {record.tries} of {numbers.settings.rollbacks}).",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return record


def give_up(run: Run, source: Source, workdir: Path, numbers: Numbers) -> None:
    """Write the first step that went wrong, the names of its samples and its batch, and say what to do.

    Each process writes the rows that are its own.
    """
    assert numbers.first_bad is not None
    first, metrics = numbers.first_bad
    record = numbers.record
    with train_batches(run, source, first - 1, order_at(record.history, first - 1)) as batches:
        host = next(batches)
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    own = f".p{jax.process_index()}" if jax.process_count() > 1 else ""
    found = plain(metrics)
    norms = {name.removeprefix("grad_norm/"): x for name, x in found.items() if name.startswith("grad_norm/")}
    about = {
        "step": first,
        "skipped": record.streak,
        "rollbacks": record.tries,
        "loss": found["loss"],
        "grad_norm": found["grad_norm"],
        "grad_norm_of_parts": norms or "log.norms='none': `mae_jax replay` computes them",
        "metrics": found,
        "history": record.history,
        "samples": [
            {"row": row, "record": int(i), "name": source.where(int(i))} for row, i in enumerate(host["index"])
        ],
    }
    with open(folder / f"step_{first}{own}.npz", "wb") as file:
        np.savez(file, **host)  # type: ignore[arg-type]
    write(folder / f"step_{first}{own}.json", about)
    if jax.process_index() == 0:
        print(
            f"mae_jax: {wrong(numbers.settings.spike, metrics, first, first + record.streak - 1)} This was tried "
            f"{record.tries + 1} times, so the run is given up. The step, its samples and the norms of its gradient "
            f"are in {folder}/step_{first}{own}.json; `mae_jax replay {workdir} {first}` runs it again and says where "
            f"it breaks. Lower optim.learning_rate, set optim.clip=1, or look for broken values in the data; the "
            f"checkpoints in {workdir} are good.",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def wrong(spike: float, metrics: Mapping[str, float], first: int, last: int) -> str:
    """What went wrong, in a sentence."""
    finite = all(np.isfinite(metrics[name]) for name in ("loss", "grad_norm"))
    why = f"above guard.spike={spike:g} times its running median" if finite else "not finite"
    return (
        f"the loss is {metrics['loss']:.6g} and the gradient's norm {metrics['grad_norm']:.6g} at step {first}: {why}. "
        f"The updates of steps {first} to {last} were skipped."
    )


def plain(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Metrics for JSON, which has no word for what is not finite."""
    return {name: value if np.isfinite(value) else str(value) for name, value in metrics.items()}


def write(path: Path, content: Any) -> None:
    """Write JSON all at once, or not at all."""
    replace_text(path, json.dumps(content, indent=2))
