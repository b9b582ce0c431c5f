"""One shard: written under another name, synced, renamed, and vouched for by a small file with its hash."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage
from mae_jax.data.moments import Moments
from mae_jax.data.prepare.plan import Plan
from mae_jax.data.sources.base import Source

# One record per chunk, for random access. Images are compressed already, and raw pixels are stored to be read fast.
WRITER = "group_size:1,uncompressed"
NOTES = "shards"  # the directory of the small files
BLOCK = 1 << 20


class Stopped(Exception):
    """The run was asked to stop."""


def note_file(target: Path, split: str, shard: int) -> Path:
    return target / NOTES / f"{split}-{shard:05d}.json"


def finished(target: Path, plan: Plan, split: str, shard: int) -> dict[str, Any] | None:
    """What was noted of a shard that is there and whose hash is right; else None."""
    path = target / plan.file(split, shard)
    try:
        note = json.loads(note_file(target, split, shard).read_text())
        if path.stat().st_size != note["bytes"] or sha256(path) != note["sha256"]:
            return None
    except (OSError, ValueError, KeyError):
        return None
    return note


def write_shard(
    target: Path, plan: Plan, split: str, shard: int, source: Source, tick: Callable[[], bool]
) -> dict[str, Any]:
    """Write a shard. `tick` is called for every record and says whether to go on.

    Returns: {sha256, bytes, count, payload (bytes of the records), moments, rejected: [[name, reason], ...]}.

    Raises: UserError where it cannot be written; Stopped.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path = target / plan.file(split, shard)
    temporary = path.with_name(path.name + ".tmp")
    moments, rejected, count, payload = Moments(), [], 0, 0
    try:
        writer = ArrayRecordWriter(str(temporary), WRITER)
        for i in map(int, plan.order(split, shard)):
            if not tick():
                raise Stopped
            try:
                example, of_image = plan.format(source[i], plan.labelled)
            except (BadImage, OSError) as error:
                rejected.append([source.name(i), str(error)])
                continue
            writer.write(example)
            moments, count, payload = moments + of_image, count + 1, payload + len(example)
        writer.close()
        sync(temporary)
        note = {
            "sha256": sha256(temporary),
            "bytes": temporary.stat().st_size,
            "count": count,
            "payload": payload,
            "moments": moments.to_json(),
            "rejected": rejected,
        }
        os.replace(temporary, path)
        sync(target)
        write_json(note_file(target, split, shard), note)
    except (RuntimeError, OSError) as error:  # array_record raises RuntimeError for whatever the disk says
        raise UserError(
            f"{path} cannot be written: {error}. Finished shards are kept: make room, and give the same command again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return note


def write_json(path: Path, data: Any) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=2) + "\n")  # ASCII: names need not be UTF-8
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """A file's or directory's content is on the disk when this returns."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
