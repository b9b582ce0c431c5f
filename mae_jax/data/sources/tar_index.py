"""Where every member of a .tar lies: read from its headers once, and kept in a file."""

import hashlib
import json
import os
import re
import tarfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.plain import loads
from mae_jax.data.sources import index_file
from mae_jax.data.sources.names import Names

FILE = ".mae_jax-index.npz"
ABOUT_BYTES = 256 << 20  # of the JSON in it
FORMAT = 1  # of the file; another one is not read
LABEL_BYTES = 1 << 20  # of a .json that may hold a label
HEADER_BYTES = 1 << 20  # of one header; an extended one says itself how long it is
MAX_MEMBERS = 50_000_000  # of one shard
MAX_EXTENSIONS = 1 << 16  # different ones in a shard, as many as uint16 counts
ARRAYS = ("first", "labels", "extension", "offset", "size")
_KEY = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$", re.DOTALL)


@dataclass(frozen=True)
class Shard:
    """The samples of one shard and the members of each.

    Attributes:
        stamp: (size, time of change in ns) of the file when it was read.
        label_key: the field of .json that was taken for the label.
        keys: of the n samples. first: int64 [n], its first member. labels: int32 [n], -1 for none.
        extension: uint16 [members], a number in `extensions`. offset, size: int64 [members], of the data in the file.
    """

    stamp: tuple[int, int]
    label_key: str
    keys: Names
    first: np.ndarray
    labels: np.ndarray
    extensions: tuple[str, ...]
    extension: np.ndarray
    offset: np.ndarray
    size: np.ndarray


def read_index(files: list[Path], label_key: str, cache: str) -> list[Shard]:
    """The index of each file, from its directory's index file where that is up to date.

    Raises: UserError for a file that is no whole, uncompressed tar, or a label that is no whole number.
    """
    found: dict[Path, Shard] = {}
    for folder in sorted({f.parent for f in files}):
        wanted = [f for f in files if f.parent == folder]
        places = _places(folder, cache)
        known = next((k for k in map(_load, places) if k), {})
        stale = [f for f in wanted if not _valid(known.get(f.name), f, label_key)]
        for file in stale:
            known[file.name] = _read(file, label_key)
        if stale:
            _save({name: s for name, s in known.items() if (folder / name).is_file()}, places)
        found |= {f: known[f.name] for f in wanted}
    return [found[f] for f in files]


def split_key(name: str) -> tuple[str, str] | None:
    """(key, extension in small letters) of a member: cut at the first dot of the last path component."""
    match = _KEY.match(name.removeprefix("./"))
    return (match[1], match[2].lower()) if match else None


def _read(path: Path, label_key: str) -> Shard:
    """Walk the headers. The standard library's reader knows long names, PAX and GNU headers."""
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise UserError(f"{path} is gzipped, and a gzipped file can only be read from its start. Unpack it: gunzip "
                            f"{path} (images hardly shrink anyway; .tgz: rename it to .tar.gz first).")  # fmt: skip
        status = os.fstat(file.fileno())
    keys: list[bytes] = []
    first, labels, extension, offset, size = array("q"), array("i"), array("H"), array("q"), array("q")
    number: dict[str, int] = {}
    current, seen = None, set[str]()
    end = 0  # of the last whole member
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
                if tar.offset <= end or member.size < 0:
                    raise tarfile.TarError(f"the header of {member.name[:80]!r} leads backwards")
                end = tar.offset
                if end > status.st_size + 512 or len(offset) > MAX_MEMBERS:
                    raise tarfile.TarError(f"{member.name[:80]!r} ends after the file, or has too many before it")
                parts = split_key(member.name)
                if not member.isreg() or parts is None:
                    continue
                if member.issparse():
                    raise UserError(f"{path} holds the sparse file {member.name}; pack it again without --sparse.")
                key, ending = parts
                if key != current:
                    current, seen = key, set()
                    keys.append(os.fsencode(key))
                    first.append(len(offset))
                    labels.append(-1)
                if ending in seen:
                    raise UserError(f"{path} holds {member.name} twice in one sample; a member's name stands once.")
                seen.add(ending)
                if len(number) >= MAX_EXTENSIONS:
                    raise tarfile.TarError(f"its members have more than {MAX_EXTENSIONS} different extensions")
                extension.append(number.setdefault(ending, len(number)))
                offset.append(member.offset_data)
                size.append(member.size)
                if label_key and (ending == "cls" or (ending == "json" and "cls" not in seen)):
                    labels[-1] = _label(path, member, label_key)
        _check_end(path, end, status.st_size)
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} is no whole .tar: {error}, after byte {end} of {status.st_size}. If a download or a copy was cut "
            "off, fetch it again, or leave the shard out by a pattern in data.path."
        ) from error
    return Shard(
        (status.st_size, status.st_mtime_ns), label_key, Names.of(keys), _numpy(first), _numpy(labels), tuple(number),
        _numpy(extension), _numpy(offset), _numpy(size),
    )  # fmt: skip


class _Headers:
    """A file of which no more is read at once than a header has, whatever length one claims."""

    def __init__(self, file: Any):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            raise tarfile.TarError(f"a header claims {size:,} bytes; at most {HEADER_BYTES:,} are read")
        return self._file.read(size)


def _check_end(path: Path, end: int, size: int) -> None:
    """A tar ends with zero blocks; without one, it may have been cut between two members, which shows in no header."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(512) == bytes(512):
            return
    raise UserError(
        f"{path} does not end as a .tar does (zero blocks after its last member, byte {end} of {size}), so it was "
        f"probably cut off: fetch it again. If it is whole, close it: truncate -s {end + 1024} {path}"
    )


def _label(path: Path, member: tarfile.TarInfo, label_key: str) -> int:
    """The whole number in a .cls, or in a field of a .json (-1 where it has no such field)."""
    if member.size > LABEL_BYTES:
        raise UserError(f"{path}, {member.name}: {member.size} bytes are too many for a label; with data.label_key='' "
                        "no labels are read.")  # fmt: skip
    with path.open("rb") as file:
        file.seek(member.offset_data)
        text = file.read(member.size)
    try:
        if member.name.lower().endswith(".json"):
            value = loads(text, LABEL_BYTES).get(label_key)
            if value is None:
                return -1
            if type(value) is not int:
                raise ValueError(f"{label_key!r} is {value!r}")
        else:
            value = int(text)
        if not 0 <= value < 2**31:
            raise ValueError(f"{value} is no class number")
        return value
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}, {member.name}: a whole number of at least 0 is expected as the label ({error}). "
                        "data.label_key names the field of .json; '' reads no labels.") from error  # fmt: skip


def _valid(shard: Shard | None, path: Path, label_key: str) -> bool:
    status = path.stat()
    return shard is not None and shard.label_key == label_key and shard.stamp == (status.st_size, status.st_mtime_ns)


def _places(folder: Path, cache: str) -> list[Path]:
    """Where the index of a directory may lie, in the order in which they are tried."""
    tag = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16] + FILE
    if cache:
        return [Path(cache).expanduser().absolute() / tag.replace(FILE, FILE[1:])]
    return [folder / FILE, index_file.home() / tag.replace(FILE, FILE[1:])]


def _load(place: Path) -> dict[str, Shard]:
    """The shards by name; nothing from a file that is not there or not whole: it is written anew."""
    arrays = index_file.load(place)
    try:
        about = loads(str(arrays["about"]), ABOUT_BYTES)
        if about["format"] != FORMAT:
            return {}
        arrays = {name: arrays[name] for name in ("block", "starts", "lengths", *ARRAYS)}
        return {name: shard for name, shard in _shards(about, arrays).items() if _sound(shard)}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
        return {}


def _sound(shard: Shard) -> bool:
    """Whether an index, which lies beside data that come from elsewhere, leads to nothing outside its shard."""
    k, m = len(shard.keys), len(shard.offset)
    columns = (shard.first, shard.labels, shard.offset, shard.size, shard.extension)
    whole = all(x.ndim == 1 and x.dtype.kind in "iu" for x in columns) and isinstance(shard.label_key, str)
    if (
        not whole
        or len(shard.first) != k
        or len(shard.labels) != k
        or len(shard.size) != m
        or len(shard.extension) != m
    ):
        return False
    names, block = shard.keys, len(shard.keys.block)
    inside = int(names.starts.min(initial=0)) >= 0 and int((names.starts + names.lengths).max(initial=0)) <= block
    ordered = k == 0 or (shard.first[0] == 0 and bool((np.diff(shard.first) > 0).all()) and shard.first[-1] < m)
    within = bool((shard.offset >= 0).all() and (shard.size >= 0).all() and (shard.size <= shard.stamp[0]).all())
    within = within and bool((shard.offset + shard.size <= shard.stamp[0]).all())
    known = not m or int(shard.extension.max()) < len(shard.extensions)
    return inside and ordered and within and known and bool((shard.labels >= -1).all())


def _shards(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Shard]:
    found, i, j = {}, 0, 0
    for row in about["shards"]:
        samples, members = slice(i, i + row["samples"]), slice(j, j + row["members"])
        i, j = samples.stop, members.stop
        found[row["name"]] = Shard(
            (row["stamp"][0], row["stamp"][1]), row["label_key"],
            Names(arrays["block"], arrays["starts"][samples], arrays["lengths"][samples]), arrays["first"][samples],
            arrays["labels"][samples], tuple(row["extensions"]), arrays["extension"][members],
            arrays["offset"][members], arrays["size"][members],
        )  # fmt: skip
    return found


def _save(shards: dict[str, Shard], places: list[Path]) -> None:
    """Write the index to the first place that can be written, whole or not at all."""
    keys = Names.of(key for shard in shards.values() for key in shard.keys)
    about = {
        "format": FORMAT,
        "shards": [
            {"name": name, "stamp": s.stamp, "label_key": s.label_key, "extensions": s.extensions,
             "samples": len(s.keys), "members": len(s.offset)} for name, s in shards.items()
        ],
    }  # fmt: skip
    arrays = {name: np.concatenate([getattr(s, name) for s in shards.values()]) for name in ARRAYS}
    arrays |= {"about": np.array(json.dumps(about)), "block": keys.block}
    arrays |= {"starts": keys.starts, "lengths": keys.lengths}
    if errors := index_file.save(places, arrays):
        nowhere = ", not to ".join(f"{place.parent} ({error.strerror})" for place, error in errors)
        raise UserError(f"The index of the shards can be written nowhere: not to {nowhere}. Set "
                        "data.cache to a directory that can be written.")  # fmt: skip


def _numpy(values: array) -> np.ndarray:
    return np.array(values, values.typecode)
