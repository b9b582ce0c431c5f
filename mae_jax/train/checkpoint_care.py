"""What `mae_jax checkpoint` does: look at a run's checkpoints, verify them, and delete what may go."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_jax.core.errors import UserError
from mae_jax.train import checkpoint_meta as sidecar
from mae_jax.train.checkpoint_lock import Lock
from mae_jax.train.checkpoint_meta import Damaged, checkpoint_directory, saved_steps
from mae_jax.train.full_disk import replace_text

GOOD, DAMAGED, UNKNOWN = "good", "damaged", "unknown"
_VERIFIED = ".verified.json"  # {step: the files as they were when every hash was right}


@dataclass(frozen=True)
class Look:
    """One checkpoint as it looks from outside.

    Attributes:
      bytes: on disk.
      time: when it was finished, seconds since the epoch.
      state: GOOD: verified, and no file has changed since; DAMAGED: its metadata are; UNKNOWN: not verified.
      metrics: by which the best is chosen.
      why: what is wrong with a damaged one.
    """

    step: int
    bytes: int
    time: float
    state: str
    metrics: dict[str, float]
    why: str = ""


def looks(workdir: Path) -> list[Look]:
    """Every checkpoint of a run, oldest first; reads no arrays."""
    directory, seen = checkpoint_directory(workdir), _verified(workdir)
    found = []
    for step in saved_steps(workdir):
        where = directory / str(step)
        state, metrics, why = UNKNOWN, {}, ""
        try:
            metrics = sidecar.read_step(directory, step)["metrics"]
            if seen.get(str(step)) == _fingerprint(where):
                state = GOOD
        except Damaged as error:
            state, why = DAMAGED, str(error)
        except UserError as error:  # a newer format
            why = str(error)
        try:
            when = where.stat().st_mtime
        except OSError:
            continue  # a run that trains has just deleted it
        found.append(Look(step, size(where), when, state, metrics, why))
    return found


def verified(workdir: Path, step: int | None = None) -> Iterator[tuple[int, str, float]]:
    """(step, what is wrong with it or "", seconds) of every checkpoint, or of one, newest first; each is read whole.

    Raises:
      UserError: there is no checkpoint, or not this one, or a newer mae_jax wrote it.
    """
    from mae_jax.train.checkpoint_read import check  # brings jax along

    directory = checkpoint_directory(workdir)
    for candidate in sidecar.candidates(workdir, step):
        began, before, why = time.monotonic(), _fingerprint(directory / str(candidate)), ""
        try:
            check(directory, candidate)
        except Damaged as error:
            if not (directory / str(candidate)).exists():
                continue  # a run that trains has just deleted it
            why = str(error)
        _note(workdir, candidate, None if why else before)
        yield candidate, why, time.monotonic() - began


def size(path: Path) -> int:
    """Bytes on disk of a directory."""
    total = 0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue  # deleted meanwhile
    return total


@dataclass(frozen=True)
class Plan:
    """What `prune` would do.

    Attributes:
      stay: steps that stay, each with the reason.
      go: paths that go, each with the reason.
      bytes: how large they are.
    """

    stay: dict[int, str]
    go: dict[Path, str]
    bytes: dict[Path, int]


def plan(workdir: Path, keep: int | None = None) -> Plan:
    """What may go: leftovers of killed saves, damaged checkpoints, and good ones beyond the newest `keep` and the best.

    Reads checkpoints from the newest down until `keep` good ones are found. As long as none is good, none goes.

    Args:
      keep: None: all good ones stay.
    Raises:
      UserError: there are none, or `keep` is below 1.
    """
    if keep is not None and keep < 1:
        raise UserError(f"--keep {keep}: at least 1 good checkpoint must stay.")
    directory = checkpoint_directory(workdir)
    go = dict.fromkeys(sorted(directory.glob("*.orbax-checkpoint-tmp*")), "left by a killed save")
    go |= dict.fromkeys(sorted(directory.glob("*.damaged")), "set aside as damaged")
    stay: dict[int, str] = {}
    wrong: dict[int, str] = {}
    best = _best(workdir)
    for step, why, _ in verified(workdir) if saved_steps(workdir) else ():
        if why:
            wrong[step] = why
        elif keep is None or len(stay) < keep:
            stay[step] = "good"
        elif step == best:
            stay[step] = "good, and the best"
        else:
            go[directory / str(step)] = f"good, but beyond the newest {keep}"
    for step, why in wrong.items():
        if stay:
            go[directory / str(step)] = f"damaged: {why}"
        else:
            stay[step] = f"damaged, but there is no good one: {why}"
    return Plan(stay, go, {path: size(path) for path in go})


def prune(workdir: Path, keep: int | None = None, *, really: bool = False) -> Plan:
    """`plan`, and where `really` is said do it.

    Raises:
      UserError: a run is writing there; see also `plan`.
    """
    directory = checkpoint_directory(workdir)
    if not directory.is_dir():
        raise UserError(f"there is no {directory}. Give the workdir of a run that has saved at least once.")
    lock = Lock(directory)
    lock.take(0.0)
    try:
        found = plan(workdir, keep)
        for path in found.go if really else ():
            gone = path.with_name(f"{path.name}.orbax-checkpoint-tmp")  # no half checkpoint, if this is killed
            if path.name.isdigit():
                path.rename(gone)
                path = gone
            shutil.rmtree(path)
    finally:
        lock.release()
    return found


def _best(workdir: Path) -> int | None:
    """The checkpoint that the run's own checkpoint.best would keep."""
    scores: dict[int, float] = {}
    for step in saved_steps(workdir):
        try:
            meta = sidecar.read_step(checkpoint_directory(workdir), step)
        except Damaged:
            continue
        kept = sidecar.Kept(1, meta["config"].get("checkpoint", {}).get("best"), {})
        kept.note(step, meta["metrics"])
        scores |= kept.scores
    return max(scores, key=lambda step: (scores[step], step)) if scores else None


def _fingerprint(where: Path) -> list[list[Any]]:
    """Name, size and time of change of every file: what a flipped byte on a failing disk does not change."""
    found = []
    for path in sorted(where.rglob("*")):
        try:
            if path.is_file():
                found.append([str(path.relative_to(where)), path.stat().st_size, path.stat().st_mtime_ns])
        except OSError:
            continue
    return found


def _verified(workdir: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((checkpoint_directory(workdir) / _VERIFIED).read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _note(workdir: Path, step: int, files: list[list[Any]] | None) -> None:
    there = {str(s) for s in saved_steps(workdir)}
    seen = {s: f for s, f in _verified(workdir).items() if s in there and s != str(step)}
    if files is not None:
        seen[str(step)] = files
    try:
        replace_text(checkpoint_directory(workdir) / _VERIFIED, json.dumps(seen))
    except OSError:
        return  # somebody else's directory, or a full one: the list will say unknown
