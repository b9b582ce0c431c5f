"""Checkpoints at WORKDIR/checkpoints/STEP: the state's arrays, the data position and the config, with a
content hash per array.

The only file that knows orbax. A step's directory holds two items: `state`, the arrays under nested plain
dicts that spell their paths, and `meta`, a JSON object {format, step, data, config, metrics, versions,
arrays: {path: {shape, dtype, hash}}, checksum}. Orbax writes under a temporary name and renames when all is
  there, so a killed save leaves no half checkpoint.
It does not notice damaged bytes; the hashes do.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from mae_jax.core.errors import UserError
from mae_jax.core.hashing import tree_hash
from mae_jax.core.tree import flatten, unflatten
from mae_jax.train import checkpoint_meta as sidecar
from mae_jax.train.checkpoint_meta import Damaged, checkpoint_directory, read_meta, saved_steps
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


class Checkpoints:
    """Saves and restores the state of one run. In a run of several processes each calls every method at the
    same step.

    Opening it removes what killed saves left behind, so only the process that trains may open it; to read
    another run's checkpoint use `read_meta` and `restore_arrays`, which change nothing.

    Args:
      workdir: directory of the run.
      keep: how many of the newest checkpoints stay. With fewer than 2 there is nothing to fall back to.
      best: name of a metric (higher is better); the checkpoint with the highest finite value stays as well.
      asynchronous: write in the background. `save` still returns only when the arrays have left the devices,
        so that the next step may donate them.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 2, best: str | None = None, asynchronous: bool = True):
        if keep < 1:
            raise UserError(
                f"checkpoint.keep is {keep}, but at least 1 checkpoint must stay; 2 or more let a run "
                f"survive a damaged one."
            )
        self.directory = checkpoint_directory(workdir)
        self._kept = sidecar.Kept(keep, best, {})
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._kept,
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=asynchronous,
                    lightweight_initialize=True,  # orbax's own metadata of each step may be damaged
                ),
            )
        except OSError as error:
            raise UserError(
                f"cannot keep checkpoints in {self.directory}: {error}. Choose a workdir that can be written."
            ) from error
        for step in self.steps():
            try:
                self._kept.note(step, sidecar.read_step(self.directory, step)["metrics"])
            except Damaged:
                continue  # restore reports it
        self._saving: int | None = None

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
        """Start saving; False (and nothing done) if this step is already saved.

        Args:
          state: pytree of arrays.
          data: the data position, JSON values only.
          config: the resolved config, JSON values only.
          metrics: values measured on this state, by which `best` chooses.
        Raises:
          UserError: this save, or the one before it which ran in the background, could not be written.
          TypeError: a leaf that is no array, or data or config that JSON cannot hold.
        """
        self.wait()
        if step in self.steps():
            return False
        arrays = flatten(state)
        meta = sidecar.seal(
            {
                "format": sidecar.FORMAT,
                "step": int(step),
                "data": data,
                "config": config,
                "metrics": {name: float(value) for name, value in (metrics or {}).items()},
                "versions": sidecar.versions(),
                "arrays": _describe(arrays),
            }
        )
        self._kept.note(step, meta["metrics"])
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(unflatten(sidecar.without_empty(arrays))),
            meta=ocp.args.JsonSave(meta),
        )
        self._saving = step
        try:
            self._manager.save(step, args=items, force=True)
        except Exception as error:
            self._failed(error)
        return True

    def restore(self, template: Any, step: int | None = None) -> Restored | None:
        """The newest good checkpoint, or the one of `step`; None if there is none at all.

        A damaged checkpoint is reported on stderr, array by array, and the one before it is tried. Once an
        older one has been read, the damaged ones are renamed to STEP.damaged, so that the run can save those
        steps again.

        Args:
          template: pytree of jax.ShapeDtypeStruct or arrays: the state to fill, with the shardings it shall
            have (any mesh).
        Raises:
          UserError: the state in the config differs from the saved one in a path, shape or dtype; the asked
            step is not there; or no checkpoint is good.
        """
        self.wait()
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
        self.wait()
        for newer in [s for s in self.steps() if s > step]:
            self._manager.delete(newer)
            self._kept.scores.pop(newer, None)

    def wait(self) -> None:
        """Block until the save in progress is on disk.

        Raises:
          UserError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            self._failed(error)
        self._saving = None

    def close(self) -> None:
        """Wait for the save in progress and stop the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _failed(self, error: Exception) -> NoReturn:
        """Give the space of the unfinished save back, forget the step, and say what happened."""
        step, self._saving = self._saving, None
        if step is not None:
            self._kept.scores.pop(step, None)
        free = shutil.disk_usage(self.directory).free
        if jax.process_index() == 0:
            for leftover in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover, ignore_errors=True)
        self._manager.reload()
        raise UserError(
            f"the checkpoint of step {step} could not be written to {self.directory} ({si(free)}B free): "
            f"{sidecar.first_line(error)}. Checkpoints saved before it are untouched "
            f"({', '.join(map(str, self.steps())) or 'none'}). Free space or mend the disk and start the "
            f"same command again."
        ) from error

    def _set_aside(self, damaged: Iterable[int]) -> None:
        for step in damaged:
            if jax.process_index() == 0:
                aside = self.directory / f"{step}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(step)).rename(aside)
                print(
                    f"checkpoint {step} was set aside as {aside}; delete it when you no longer need it",
                    file=sys.stderr,
                )
            self._kept.scores.pop(step, None)
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("mae_jax.checkpoint.set_aside")
            self._manager.reload()


def restore_arrays(
    workdir: str | Path, step: int | None = None, subtree: str | Sequence[str] | None = None
) -> dict[str, Any]:
    """Nested dicts of numpy arrays, without a template, checked against their hashes; the run may be training
    meanwhile.

    Args:
      step: by default the newest good one.
      subtree: path or paths to read, e.g. "params" or ("params", "stats", "ema"); by default the whole state.
        Sequences in the state (an optimizer's tuples) appear as dicts with keys "0", "1", ... A path that the
        checkpoint lacks is left out.
    Raises:
      UserError: there is no such checkpoint, none is good, or it holds nothing under `subtree`.
    """
    directory = checkpoint_directory(workdir)
    roots = (subtree,) if isinstance(subtree, str) else subtree
    damaged: dict[int, str] = {}
    for candidate in sidecar.candidates(workdir, step):
        try:
            arrays = sidecar.read_step(directory, candidate)["arrays"]
            wanted = {
                p: a for p, a in arrays.items() if roots is None or any(p == r or p.startswith(r + "/") for r in roots)
            }
            if not wanted:
                tops = sorted({path.split("/")[0] for path in arrays})
                raise UserError(
                    f"checkpoint {directory / str(candidate)} holds nothing under {subtree!r}; "
                    f"it has {', '.join(tops)}."
                )
            targets = {path: _HostArray(tuple(a["shape"]), jnp.dtype(a["dtype"])) for path, a in wanted.items()}
            found = _read(directory / str(candidate) / "state", targets)
            _verify(found, wanted)
            return unflatten(found)
        except Damaged as error:
            damaged[candidate] = str(error)
            print(f"checkpoint {directory / str(candidate)} is damaged: {error}", file=sys.stderr, flush=True)
    raise UserError(sidecar.none_good(directory, damaged))


@dataclass(frozen=True)
class _HostArray:
    """A target of reading that becomes a numpy array."""

    shape: tuple[int, ...]
    dtype: Any


def _attempt(directory: Path, step: int, template: Any) -> tuple[Restored | None, str]:
    """(restored, "") or (None, why not), the same on every process.

    Reading fails on one process alone when only its shards are damaged. They agree on that before the hashes, whose sum
    over devices is a collective that a process left alone would wait in for ever.
    """
    targets = {path: _target(path, leaf) for path, leaf in flatten(template).items()}
    meta: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    why = ""
    try:
        meta = sidecar.read_step(directory, step)
        sidecar.compare(directory / str(step), targets, meta["arrays"])
        arrays = _read(directory / str(step) / "state", targets)
    except Damaged as error:
        why = str(error)
    if agree(bool(why)):
        return None, why or "another process could not read it"
    try:
        _verify(arrays, meta["arrays"])
    except Damaged as error:
        return None, str(error)
    state = jax.tree.unflatten(jax.tree.structure(template), [arrays[path] for path in targets])
    return Restored(step, state, meta["data"], meta["config"], meta["metrics"]), ""


def _target(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        if jax.process_count() > 1:
            raise TypeError(f"the template's '{path}' has no sharding; with several processes every leaf needs one.")
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _verify(arrays: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Compare every hash.

    Raises:
      Damaged: naming the arrays that are not what was written.
    """
    hashes = tree_hash(arrays)
    wrong = [path for path in arrays if list(hashes[path]) != saved[path]["hash"]]
    if wrong:
        raise Damaged(sidecar.listed("differ from what was saved", wrong, len(arrays)))


def _read(path: Path, targets: Mapping[str, Any]) -> dict[str, Any]:
    """{path: array} as the targets say, not yet verified.

    Raises:
      Damaged: the files cannot be read.
    """
    stored = sidecar.without_empty(targets)
    arguments = {
        name: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
        if isinstance(leaf, _HostArray)
        else ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)
        for name, leaf in stored.items()
    }
    items = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in stored.items()}
    request = ocp.args.PyTreeRestore(item=unflatten(items), restore_args=unflatten(arguments), partial_restore=True)
    try:
        # Straight through the handler: a Checkpointer ends in a barrier, where all would wait for one that failed.
        with sidecar.muted_asyncio(), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            read = flatten(handler.restore(epath.Path(path), args=request)) if stored else {}
    except Exception as error:  # orbax and tensorstore raise many kinds on damaged files
        raise Damaged(f"its arrays cannot be read ({sidecar.first_line(error)})") from error
    # Orbax hands the request itself back, or another form, where damage reached its own metadata.
    odd = [name for name, leaf in stored.items() if not _has_form(read.get(name), leaf)]
    if odd:
        raise Damaged(sidecar.listed("came back in another form", odd, len(targets)))
    return {name: read[name] if name in stored else _empty(leaf) for name, leaf in targets.items()}


def _has_form(array: Any, target: Any) -> bool:
    form = (target.shape, target.dtype)
    return isinstance(array, jax.Array | np.ndarray) and (array.shape, array.dtype) == form


def _empty(leaf: Any) -> Any:
    if isinstance(leaf, _HostArray):
        return np.zeros(leaf.shape, leaf.dtype)
    return jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=leaf.sharding)()


def _describe(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    for path, leaf in arrays.items():
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(f"the state's '{path}' is a {type(leaf).__name__}, not an array.")
    hashes = tree_hash(arrays)
    return {
        path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "hash": list(hashes[path])}
        for path, leaf in arrays.items()
    }
