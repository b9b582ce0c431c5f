"""Reading checkpoints, compared with their hashes; with checkpoint.py the only file that knows orbax."""

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from mae_jax.core.errors import UserError
from mae_jax.core.hashing import tree_hash
from mae_jax.core.tree import flatten, unflatten
from mae_jax.train import checkpoint_meta as sidecar
from mae_jax.train.checkpoint_meta import Damaged, checkpoint_directory

_GROUP = 1 << 30  # bytes that `check` holds at a time


def check(directory: Path, step: int) -> dict[str, Any]:
    """Read a whole checkpoint, compare every hash, keep nothing -> its metadata.

    Raises:
      Damaged: it is not what was written.
      UserError: a newer mae_jax wrote it.
    """
    meta = sidecar.read_step(directory, step)
    group: dict[str, HostArray] = {}
    held = 0
    for number, (path, saved) in enumerate(meta["arrays"].items(), 1):
        group[path] = host_array(saved)
        held += math.prod(saved["shape"]) * group[path].dtype.itemsize
        if held >= _GROUP or number == len(meta["arrays"]):
            verify(read(directory / str(step) / "state", group), meta["arrays"])
            group, held = {}, 0
    return meta


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
            targets = {path: host_array(a) for path, a in wanted.items()}
            found = read(directory / str(candidate) / "state", targets)
            verify(found, wanted)
            return unflatten(found)
        except Damaged as error:
            damaged[candidate] = str(error)
            print(f"checkpoint {directory / str(candidate)} is damaged: {error}", file=sys.stderr, flush=True)
    raise UserError(sidecar.none_good(directory, damaged))


@dataclass(frozen=True)
class HostArray:
    """A target of reading that becomes a numpy array."""

    shape: tuple[int, ...]
    dtype: Any


def host_array(saved: Mapping[str, Any]) -> HostArray:
    """The target that an array's metadata describe."""
    return HostArray(tuple(saved["shape"]), jnp.dtype(saved["dtype"]))


def target(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
    """What to read a leaf of a template as: its sharding, or the first device where it has none."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        if jax.process_count() > 1:
            raise TypeError(f"the template's '{path}' has no sharding; with several processes every leaf needs one.")
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def verify(arrays: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Compare every hash.

    Raises:
      Damaged: naming the arrays that are not what was written.
    """
    hashes = tree_hash(arrays)
    wrong = [path for path in arrays if list(hashes[path]) != saved[path]["hash"]]
    if wrong:
        raise Damaged(sidecar.listed("differ from what was saved", wrong, len(arrays)))


def read(path: Path, targets: Mapping[str, Any]) -> dict[str, Any]:
    """{path: array} as the targets say, not yet verified.

    Raises:
      Damaged: the files cannot be read.
    """
    stored = sidecar.without_empty(targets)
    arguments = {
        name: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
        if isinstance(leaf, HostArray)
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
    odd = [name for name, leaf in stored.items() if not has_form(read.get(name), leaf)]
    if odd:
        raise Damaged(sidecar.listed("came back in another form", odd, len(targets)))
    return {name: read[name] if name in stored else empty(leaf) for name, leaf in targets.items()}


def has_form(array: Any, target: Any) -> bool:
    """Whether an array is of its target's shape and dtype."""
    form = (target.shape, target.dtype)
    return isinstance(array, jax.Array | np.ndarray) and (array.shape, array.dtype) == form


def empty(leaf: Any) -> Any:
    """An array of size zero, which no file holds."""
    if isinstance(leaf, HostArray):
        return np.zeros(leaf.shape, leaf.dtype)
    return jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=leaf.sharding)()
