"""Checkpoints at WORKDIR/checkpoints/STEP: the state's arrays, the data position and the config, with a
content hash per array.

With checkpoint_read.py the only file that knows orbax. A step's directory holds two items: `state`, the arrays under
nested plain dicts that spell their paths, and `meta`, a JSON object {format, step, data, config, metrics, versions,
arrays: {path: {shape, dtype, hash}}, checksum}. Orbax writes under a temporary name and renames when all is
there, so a killed save leaves no half checkpoint. It does not notice damaged bytes; the hashes do.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mae_jax.core.errors import UserError
from mae_jax.core.hashing import tree_hash_later
from mae_jax.core.tree import flatten, unflatten
from mae_jax.train import checkpoint_meta as sidecar
from mae_jax.train.checkpoint_barrier import Barrier
from mae_jax.train.checkpoint_lock import WAIT, Lock
from mae_jax.train.checkpoint_meta import Damaged, checkpoint_directory, read_meta, saved_steps
from mae_jax.train.checkpoint_read import read, restore_arrays, target, verify
from mae_jax.train.full_disk import say
from mae_jax.train.progress import si
from mae_jax.train.signals import agree

__all__ = ["Checkpoints", "Restored", "checkpoint_directory", "read_meta", "restore_arrays", "saved_steps"]


@dataclass(frozen=True)
class Restored:
    """What a checkpoint held. `data` and `config` have been through JSON: tuples come back as lists, keys as
    strings.
    """

    step: int
    state: Any
    data: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, float]


class _MetaHandler(ocp.JsonCheckpointHandler):
    """Writes a JSON object that is made in the background, when the hashes are there."""

    async def _save_fn(self, x: Callable[[], dict[str, Any]], directory: Any) -> None:
        made = x()  # by every process: the hashes are sums over all
        await super()._save_fn(made, directory)


@ocp.args.register_with_handler(_MetaHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _MetaSave(ocp.args.CheckpointArgs):
    item: Callable[[], dict[str, Any]] | None = None  # orbax insists on arguments for restoring, which nobody uses


class Checkpoints:
    """Saves and restores the state of one run. In a run of several processes each calls every method at the
    same step.

    Opening it removes what killed saves left behind, so only the process that trains may open it, and a second one
    is refused; to read another run's checkpoint use `read_meta` and `restore_arrays`, which change nothing.

    A save that cannot be written (a full disk) is no error but a warning and `failed`: training goes on, the older
    checkpoints stay, and `owed` says when to try again.

    Args:
      workdir: directory of the run.
      keep: how many of the newest checkpoints stay. With fewer than 2 there is nothing to fall back to.
      best: name of a metric (higher is better); the checkpoint with the highest finite value stays as well.
      asynchronous: write in the background. `save` still returns only when the arrays have left the devices,
        so that the next step may donate them.
      retry: steps after a failed save before `owed` asks for another.
      wait: seconds to wait for another process that is leaving.
    """

    def __init__(
        self, workdir: str | Path, *, keep: int = 2, best: str | None = None, asynchronous: bool = True,
        retry: int = 1, wait: float = WAIT,
    ):  # fmt: skip
        if keep < 1:
            raise UserError(
                f"checkpoint.keep is {keep}, but at least 1 checkpoint must stay; 2 or more let a run "
                f"survive a damaged one."
            )
        self.directory = checkpoint_directory(workdir)
        self.failed: str | None = None  # what kept the last save off the disk; None where it is there
        self._retry = retry
        self._tried: int | None = None  # the step of a save that may yet fail, or did
        self._writing = False  # whether it may still be on its way
        self._error: Exception | None = None
        self._kept = sidecar.Kept(keep, best, {})
        self._barrier, several = Barrier(), jax.process_count() > 1
        self._lock = Lock(self.directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                self._lock.take(wait)
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._kept,
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=asynchronous,
                    async_options=ocp.AsyncOptions(barrier_sync_fn=self._barrier) if several else None,
                    lightweight_initialize=True,  # orbax's own metadata of each step may be damaged
                ),
            )
        except OSError as error:
            self._lock.release()
            raise UserError(
                f"cannot keep checkpoints in {self.directory}: {error}. Choose a workdir that can be written."
            ) from error
        for step in self.steps():
            try:
                self._kept.note(step, sidecar.read_step(self.directory, step)["metrics"])
            except Damaged:
                continue  # restore reports it

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps saved so far, oldest first; one still being written counts."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: Any,
        *,
        data: Mapping[str, Any],
        config: Mapping[str, Any],
        metrics: Mapping[str, SupportsFloat] | None = None,
    ) -> bool:
        """Start saving; False if this step is already saved (nothing is done), or could not be written (`failed`).

        That a save which runs in the background fails is seen by the next call of `save`, `owed` or `settle`.

        Args:
          state: pytree of arrays.
          data: the data position, JSON values only.
          config: the resolved config, JSON values only.
          metrics: values measured on this state, by which `best` chooses.
        Raises:
          TypeError: a leaf that is no array, or data or config that JSON cannot hold.
        """
        self.settle(state)
        if step in self.steps():
            return False
        arrays = flatten(state)
        meta: dict[str, Any] = {
            "format": sidecar.FORMAT,
            "step": int(step),
            "data": data,
            "config": config,
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "versions": sidecar.versions(),
            "arrays": _describe(arrays),
        }
        meta = json.loads(json.dumps(meta))  # as they are now, whatever the caller does to them next
        hashes = tree_hash_later(arrays)

        def whole() -> dict[str, Any]:
            for path, found in hashes().items():
                meta["arrays"][path]["hash"] = list(found)
            return sidecar.seal(meta)

        self._kept.note(step, meta["metrics"])
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(unflatten(sidecar.without_empty(arrays))), meta=_MetaSave(whole)
        )
        self._tried = step
        self._barrier.begin()
        error: Exception | None = None
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as problem:  # orbax and tensorstore raise many kinds
            error = problem
            self._barrier.failed(error)
        if agree(error is not None):
            self.wait()  # where only another process failed, this one's part is still under way
            error, self._error = error or self._error, None
            self._give_up(error)
            return False
        self._writing = True
        return True

    def restore(self, template: Any, step: int | None = None) -> Restored | None:
        """The newest good checkpoint, or the one of `step`; None if there is none at all.

        A damaged checkpoint is reported on stderr, array by array, and the one before it is tried. Once an
        older one has been read, the damaged ones are renamed to STEP.damaged, so that the run can save those
        steps again; the newest of these stays, for whoever wants to know what happened.

        Args:
          template: pytree of jax.ShapeDtypeStruct or arrays: the state to fill, with the shardings it shall
            have (any mesh).
        Raises:
          UserError: the state in the config differs from the saved one in a path, shape or dtype; the asked
            step is not there; or no checkpoint is good.
        """
        self.settle()
        steps = self.steps()
        if step is not None and step not in steps:
            raise UserError(sidecar.no_such_step(self.directory, step, steps))
        if not steps:
            return None
        damaged: dict[int, str] = {}
        for candidate in [step] if step is not None else reversed(steps):
            found, why = _attempt(self.directory, candidate, template)
            if found is not None:
                self._set_aside(damaged)
                return found
            damaged[candidate] = why
            print(f"checkpoint {self.directory / str(candidate)} is damaged: {why}", file=sys.stderr, flush=True)
        raise UserError(sidecar.none_good(self.directory, damaged))

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints newer than `step`: after a roll-back to it they belong to a history that did
        not happen.
        """
        self.settle()
        for newer in [s for s in self.steps() if s > step]:
            self._manager.delete(newer)
            self._kept.scores.pop(newer, None)

    def owed(self, step: int, running: Any = None) -> bool:
        """Whether the state of `step` should be saved out of turn, because the last save failed.

        Args:
          running: arrays of the step in progress, for which several processes wait before they agree.
        """
        if self._tried is None or step < self._tried + self._retry:
            return False
        if self._writing and jax.process_count() == 1 and self._manager.is_saving_in_progress():
            return False
        self.settle(running)
        return self.failed is not None

    def wait(self) -> None:
        """Block until the save in progress is on disk, or has failed; this process only."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:  # orbax and tensorstore raise many kinds
            self._error = error
        self._writing = False

    def settle(self, running: Any = None) -> None:
        """`wait`, and learn whether it is on disk (`failed`); every process.

        Args:
          running: arrays of the step in progress, for which several processes wait before they agree.
        """
        self.wait()
        if self._tried is None:
            return
        if jax.process_count() > 1:
            jax.block_until_ready(running)  # two collective programs at once can deadlock on a CPU
        error, self._error = self._error, None
        if agree(error is not None):
            self._give_up(error)
        elif self._tried in self.steps():
            self._tried = self.failed = None

    def close(self) -> None:
        """Wait for the save in progress and stop the background threads."""
        try:
            self.wait()
            if self._error is not None:
                self._give_up(self._error)
        finally:
            self._manager.close()
            self._lock.release()

    def _give_up(self, error: Exception | None) -> None:
        """Give the space of the unfinished save back, forget the step, and say what happened."""
        step, free = self._tried, "it cannot be looked at"
        if step is not None:
            self._kept.scores.pop(step, None)
        with contextlib.suppress(OSError):
            free = si(shutil.disk_usage(self.directory).free) + "B free"
        if jax.process_index() == 0:
            for leftover in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        self._manager.reload()
        there = ", ".join(map(str, self.steps())) or "none"
        reason = sidecar.first_line(error) if error is not None else "another process could not write its part"
        self.failed = (
            f"the checkpoint of step {step} could not be written to {self.directory} ({free}): {reason}. "
            f"The checkpoints saved before it are untouched ({there})."
        )
        say(
            f"\nmae_jax: WARNING: {self.failed} Training goes on, and saving is tried again in {self._retry} step(s); "
            f"until then a crash loses what came after the last of these. Free space or mend the disk.\n"
        )

    def _set_aside(self, damaged: Iterable[int]) -> None:
        for step in sorted(damaged):
            if jax.process_index() == 0:
                sidecar.set_aside(self.directory, step)
            self._kept.scores.pop(step, None)
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("mae_jax.checkpoint.set_aside")
            self._manager.reload()


def restore_at(workdir: str | Path, template: Any, step: int) -> Restored | None:
    """The checkpoint of `step`, of a run that may be training meanwhile: nothing on disk changes. None where it is
    damaged, which is said on stderr.
    """
    directory = checkpoint_directory(workdir)
    found, why = _attempt(directory, step, template)
    if found is None:
        print(f"checkpoint {directory / str(step)} is damaged: {why}", file=sys.stderr, flush=True)
    return found


def _attempt(directory: Path, step: int, template: Any) -> tuple[Restored | None, str]:
    """(restored, "") or (None, why not), the same on every process.

    Reading fails on one process alone when only its shards are damaged. They agree on that before the hashes, whose sum
    over devices is a collective that a process left alone would wait in for ever.
    """
    targets = {path: target(path, leaf) for path, leaf in flatten(template).items()}
    meta: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    why = ""
    try:
        meta = sidecar.read_step(directory, step)
        sidecar.compare(directory / str(step), targets, meta["arrays"])
        arrays = read(directory / str(step) / "state", targets)
    except Damaged as error:
        why = str(error)
    if agree(bool(why)):
        return None, why or "another process could not read it"
    try:
        verify(arrays, meta["arrays"])
    except Damaged as error:
        return None, str(error)
    state = jax.tree.unflatten(jax.tree.structure(template), [arrays[path] for path in targets])
    return Restored(step, state, meta["data"], meta["config"], meta["metrics"]), ""


def _describe(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for path, leaf in arrays.items():
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(f"the state's '{path}' is a {type(leaf).__name__}, not an array.")
    return {path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for path, leaf in arrays.items()}
