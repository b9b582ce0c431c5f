"""The part of checkpoints that needs neither orbax nor a device: above all the JSON object beside the arrays.

It lies at WORKDIR/checkpoints/STEP/meta/metadata: {format, step, data, config, metrics, versions,
arrays: {path: {shape, dtype, hash}}, checksum}. A flipped digit would still be JSON: the checksum covers the
  rest.
"""

import contextlib
import gc
import hashlib
import importlib.metadata
import json
import logging
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_jax.core.errors import UserError

FORMAT = 1
_LIBRARIES = ("mae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


class Damaged(Exception):
    """This checkpoint cannot be read or is not what was written; another one may be good."""


@dataclass
class Kept:
    """Orbax's preservation policy: the newest few and the best one by the scores known to us."""

    newest: int
    best: str | None
    scores: dict[int, float]

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.best is not None and math.isfinite(metrics.get(self.best, math.nan)):
            self.scores[step] = metrics[self.best]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [info.step for info in checkpoints]
        kept = set(sorted(steps)[-self.newest :])
        scored = [(self.scores[step], step) for step in steps if step in self.scores]
        if scored:
            kept.add(max(scored)[1])
        return [step in kept for step in steps]


def checkpoint_directory(workdir: str | Path) -> Path:
    """Where a run's checkpoints lie, absolute (orbax insists)."""
    return Path(workdir).absolute() / "checkpoints"


def saved_steps(workdir: str | Path) -> list[int]:
    """The finished checkpoints of a run, oldest first, without opening it."""
    directory = checkpoint_directory(workdir)
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdigit() and entry.is_dir())


def read_meta(workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """The JSON side of a checkpoint (by default the newest that can be read): {format, step, data, config,
    metrics, versions, arrays}. Reads one file and touches no device.

    Raises:
      UserError: there is no such checkpoint, or none whose metadata is whole.
    """
    directory = checkpoint_directory(workdir)
    damaged: dict[int, str] = {}
    for candidate in candidates(workdir, step):
        try:
            return read_step(directory, candidate)
        except Damaged as error:
            damaged[candidate] = str(error)
            print(f"checkpoint {directory / str(candidate)} is damaged: {error}", file=sys.stderr, flush=True)
    raise UserError(none_good(directory, damaged))


def read_step(directory: Path, step: int) -> dict[str, Any]:
    """One checkpoint's metadata, its own checksum verified.

    Raises:
      Damaged: it is missing, no JSON, or not what was written.
      UserError: a newer mae_jax wrote it.
    """
    path = directory / str(step) / "meta" / "metadata"
    try:
        meta: dict[str, Any] = json.loads(path.read_bytes())
        whole = isinstance(meta, dict) and meta.pop("checksum", None) == _checksum(meta)
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"its metadata {path} cannot be read ({type(error).__name__}: {error})") from error
    if not whole:
        raise Damaged(f"its metadata {path} does not match its checksum")
    if meta["format"] > FORMAT:
        raise UserError(
            f"checkpoint {directory / str(step)} has format {meta['format']}, written by mae_jax "
            f"{meta['versions'].get('mae_jax', '?')}; this version reads up to {FORMAT}. Upgrade mae_jax."
        )
    return meta


def set_aside(directory: Path, step: int) -> None:
    """Rename a damaged checkpoint to STEP.damaged and delete those set aside before: they would fill the disk."""
    for older in directory.glob("*.damaged"):
        shutil.rmtree(older, ignore_errors=True)
    aside = directory / f"{step}.damaged"
    (directory / str(step)).rename(aside)
    print(f"checkpoint {step} was set aside as {aside}; the next damaged one takes its place", file=sys.stderr)


def compare(where: Path, targets: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse a state of another shape. Orbax would cast dtypes silently, so they are compared here."""
    faults = [f"'{path}' is in the checkpoint only" for path in saved if path not in targets]
    for path, leaf in targets.items():
        shape, dtype = tuple(leaf.shape), str(leaf.dtype)
        if path not in saved:
            faults.append(f"'{path}' ({dtype}{list(shape)}) is not in the checkpoint")
        elif (shape, dtype) != (tuple(saved[path]["shape"]), saved[path]["dtype"]):
            faults.append(
                f"'{path}' is {dtype}{list(shape)} here and "
                f"{saved[path]['dtype']}{saved[path]['shape']} in the checkpoint"
            )
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise UserError(
            f"the state of this run does not fit the checkpoint {where}: {'; '.join(faults[:8])}{more}. "
            f"The model, the optimizer or their dtypes were changed since it was saved: restore the old "
            f"config, or start in a new workdir."
        )


def seal(meta: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(
        json.dumps(meta)
    )  # what reading it back will give, so that the checksum is of that
    return {**plain, "checksum": _checksum(plain)}


def _checksum(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a source tree, or grain left out
    return found


def candidates(workdir: str | Path, step: int | None) -> list[int]:
    """Steps to try, newest first."""
    directory, steps = checkpoint_directory(workdir), saved_steps(workdir)
    if not steps:
        raise UserError(
            f"there is no checkpoint in {directory}. Give the workdir of a run that has saved at least once."
        )
    if step is None:
        return steps[::-1]
    if step not in steps:
        raise UserError(no_such_step(directory, step, steps))
    return [step]


def no_such_step(directory: Path, step: int, steps: Sequence[int]) -> str:
    there = ", ".join(map(str, steps)) or "none"
    return f"{directory} has no checkpoint of step {step}; it has {there}. Name one of these."


def none_good(directory: Path, damaged: Mapping[int, str]) -> str:
    reasons = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
    return (
        f"no good checkpoint among those tried in {directory}. {reasons}. Nothing was changed on disk: bring "
        f"back a copy of one of them, name another step, or start in a new workdir."
    )


@contextlib.contextmanager
def muted_asyncio() -> Iterator[None]:
    """When one array fails orbax abandons the reads of the others, and asyncio logs each: pages of noise
    after the reason.
    """
    logger = logging.getLogger("asyncio")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except Exception as error:
        error.__traceback__ = None  # it holds the abandoned reads alive; they report when collected
        gc.collect()
        raise
    finally:
        logger.setLevel(level)


def first_line(error: BaseException) -> str:
    lines = str(error).split("[tensorstore_spec")[0].strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:500]}" if lines else type(error).__name__


def listed(fault: str, paths: Sequence[str], total: int) -> str:
    more = f" and {len(paths) - 8} more" if len(paths) > 8 else ""
    return f"{len(paths)} of {total} arrays {fault}: {', '.join(paths[:8])}{more}"


def without_empty(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Orbax refuses arrays of size zero; their shape in the metadata says all there is to know."""
    return {path: leaf for path, leaf in arrays.items() if math.prod(leaf.shape)}
