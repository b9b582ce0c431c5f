"""Features on disk: extracted once, in shards that each process writes for its rows, taken again by their key.

    FOLDER/<key>/key.json                 what the features are of, in words that a person can read
    FOLDER/<key>/00000003-0001.npz        shard 3, part 1 of the rows: features, label, valid, position
    FOLDER/<key>/done.json                written last; without it the folder is an extraction that was interrupted

An interrupted extraction goes on with the shards that are missing. A shard appears whole or not at all, and its
checksums (those of the zip format) are read with it.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from mae_jax.core.devices import Share
from mae_jax.core.errors import UserError
from mae_jax.core.npy import Npz
from mae_jax.core.types import Batch
from mae_jax.eval.features import Labelled, Place, check_labelled, check_pairs, checked, kept

SHARD_ROWS = 2048  # samples in a shard, over all processes (6 MB of 768 features)
Encoders = Mapping[str, Callable[[Batch], Array]]


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass over a split that can be entered anywhere.

    Attributes:
      open: number of a batch -> iterator over the batches from there on (this process's rows of each).
      batches: how many there are.
      batch: samples in one, over all processes.
      share: which part of each batch is this process's; processes among which tensor splits hold the same.
    """

    open: Callable[[int], Any]
    batches: int
    batch: int
    share: Share


@dataclasses.dataclass(frozen=True)
class Entry:
    """One set of features in the cache.

    Attributes:
      folder: of this set alone.
      key: everything that the features depend on, as JSON.
    """

    folder: Path
    key: Mapping[str, Any]

    @classmethod
    def of(cls, root: Path, key: Mapping[str, Any]) -> "Entry":
        """The entry of a key below `root`."""
        text = json.dumps(key, sort_keys=True, default=str)
        return cls(root / hashlib.sha256(text.encode()).hexdigest()[:16], json.loads(text))

    @property
    def done(self) -> bool:
        """Whether the extraction was finished."""
        return (self.folder / "done.json").is_file()

    def shard(self, number: int, part: int) -> Path:
        """Where a part of a shard's rows lies."""
        return self.folder / f"{number:08d}-{part:04d}.npz"

    def begin(self, layout: Mapping[str, int]) -> None:
        """Make the folder; drop shards of an interrupted extraction that was cut up in another way."""
        path = self.folder / "key.json"
        described = {"layout": dict(layout), "key": self.key}
        try:
            if path.is_file() and json.loads(path.read_text()) == described:
                return
        except ValueError:  # the writing of this very file was interrupted
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(parents=True)
            _write(path, json.dumps(described, indent=2).encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"cannot keep features in {self.folder.parent}: {error.strerror}. Name another folder with --cache "
                f"DIR, or go without with --no-cache."
            ) from None

    def read(self) -> Labelled:
        """The features of all real samples in the order of the source.

        Raises:
          UserError: a shard that is missing or damaged, by its name; samples that are there twice.
        """
        names = json.loads((self.folder / "done.json").read_text())["shards"]
        parts = [_load(self.folder / name) for name in names]
        position = np.concatenate([part["position"] for part in parts])
        layout = json.loads((self.folder / "key.json").read_text())["layout"]
        if len(np.unique(position)) < len(position) or position.max() >= layout["batch"] * layout["batches"]:
            # Written before processes that hold the same rows (mesh.tensor over several) wrote them once.
            raise UserError(
                f"the cached features in {self.folder} hold samples twice, so what is measured on them is wrong: "
                f"remove that folder, and the next run computes them again."
            )
        order = np.argsort(position, kind="stable")
        features, labels, keep = [], [], []
        for part in parts:
            keep.append(kept(part["label"], part["valid"], part["features"].ndim == part["label"].ndim == 2))
            features.append(part["features"])
            labels.append(part["label"])
        chosen = np.concatenate(keep)[order]
        return Labelled(np.concatenate(features)[order][chosen], np.concatenate(labels)[order][chosen].astype(np.int64))


def features(
    entries: Mapping[str, Entry],
    encoders: Encoders,
    split: Pass,
    *,
    place: Place | None = None,
    rows: int = SHARD_ROWS,
    multilabel: bool = False,
) -> dict[str, Labelled]:
    """Features of a split by each encoder: from the cache where they are, else computed and kept.

    The folder of the cache must be seen by all processes, like a run's workdir.

    Args:
      entries: the cache's place for each encoder.
      place, multilabel: as in `features.extract`.
      rows: samples in a shard.

    Raises:
      UserError: as `features.extract`; a damaged shard; a folder that cannot be written, or is not shared.
    """
    lacking = _any_process(np.array([not entry.done for entry in entries.values()], bool))
    missing = {name: entry for (name, entry), due in zip(entries.items(), lacking, strict=True) if due}
    if missing:
        _extract(
            missing, {name: encoders[name] for name in missing}, split, place, max(1, rows // split.batch), multilabel
        )
    return {name: checked(name, entry.read()) for name, entry in entries.items()}


def _extract(
    entries: Mapping[str, Entry],
    encoders: Encoders,
    split: Pass,
    place: Place | None,
    per_shard: int,
    multilabel: bool = False,
) -> None:
    me, own = jax.process_index(), split.share
    shards = -(-split.batches // per_shard)
    layout = {"batch": split.batch, "batches": split.batches, "batches_per_shard": per_shard, "parts": own.parts}
    if me == 0:
        for entry in entries.values():
            entry.begin(layout)
    _barrier("begun")
    lacking = np.array([any(not e.shard(s, own.part).is_file() for e in entries.values()) for s in range(shards)])
    for first, last in _runs(_any_process(lacking)):  # all must encode the same batches
        batches = split.open(first * per_shard)
        try:
            for number in range(first, last):
                due = min((number + 1) * per_shard, split.batches) - number * per_shard
                made = [_encoded(next(batches), encoders, place, multilabel) for _ in range(due)]
                for name, entry in entries.items() if own.leads else ():
                    _save(entry.shard(number, own.part), name, made, number * per_shard, split.batch, own.part)
        finally:
            getattr(batches, "close", lambda: None)()
    _barrier("written")
    if me == 0:
        for entry in entries.values():
            names = [entry.shard(s, p).name for s in range(shards) for p in range(own.parts)]
            absent = [name for name in names if not (entry.folder / name).is_file()]
            if absent:
                raise UserError(
                    f"{entry.folder} lacks {len(absent)} shard(s) that other processes wrote, first {absent[0]}: the "
                    f"cache must be a folder that all processes share. Name one with --cache DIR, or --no-cache."
                )
            _write(entry.folder / "done.json", json.dumps({"shards": names}, indent=2).encode() + b"\n")
    _barrier("done")
    if not all(entry.done for entry in entries.values()):
        raise UserError("the cache of features is not seen by all processes: name a shared folder with --cache DIR.")


def _encoded(
    host: Mapping[str, Any], encoders: Encoders, place: Place | None, multilabel: bool = False
) -> dict[str, np.ndarray]:
    """This process's rows: label, valid, and the features of every encoder (under "features/NAME")."""
    check_labelled(host)
    label = np.asarray(host["label"])
    out = {"label": label, "valid": np.asarray(host.get("valid", np.ones(len(label), bool)))}
    batch = {key: place(key, value) if place else value for key, value in host.items() if key not in out}
    found = {name: encode(batch) for name, encode in encoders.items()}  # all are dispatched before any is awaited
    for name, array in found.items():
        local = _local_rows(array).astype(np.float32)
        check_pairs(label, local, multilabel)
        out[f"features/{name}"] = local
    return out


def _local_rows(x: Any) -> np.ndarray:
    """The rows of a batch that lie on this process's devices, in order."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def _save(path: Path, name: str, made: list[dict[str, np.ndarray]], first: int, batch: int, part: int) -> None:
    arrays = {key: np.concatenate([rows[key] for rows in made]) for key in ("label", "valid")}
    arrays["features"] = np.concatenate([rows[f"features/{name}"] for rows in made])
    local = len(made[0]["label"])
    start = part * local
    arrays["position"] = np.concatenate([(first + i) * batch + start + np.arange(local) for i in range(len(made))])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot keep features in {path.parent}: {error.strerror}. Name another folder with --cache DIR, or go "
            f"without with --no-cache."
        ) from None


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        file = Npz(path)
        return {name: file[name] for name in ("features", "label", "valid", "position")}
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, ValueError, KeyError, zlib.error) as error:
        problem = f"is damaged ({error})"
    raise UserError(
        f"the shard {path} of cached features {problem}. Remove {path} and {path.parent / 'done.json'}, and the next "
        f"run computes that shard again; or go without the cache with --no-cache."
    )


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """[first, last) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _any_process(flags: np.ndarray) -> np.ndarray:
    """Each flag, set where any process has set it."""
    if jax.process_count() == 1:
        return flags
    return np.any(np.asarray(multihost_utils.process_allgather(flags)), axis=0)


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"mae_jax features {name}")
