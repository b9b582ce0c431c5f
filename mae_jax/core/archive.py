"""Zip archives from anywhere, read without trusting a number in them: torch's files and .npz.

Everything is checked when an archive is opened, before anything is unpacked: how many members there are, that each
lies within the file and none on another, that no name is there twice or leads out of the archive. Stored members are
views of the mapped file; compressed ones are unpacked up to the size that was checked and no further.

Format: PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.5.3.
"""

import mmap
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

MAX_MEMBERS = 100_000
MAX_DIRECTORY = 32 << 20  # bytes
FREE = 256 << 20  # bytes that compressed members may unpack to, whatever their packed size
RATIO = 100  # and beyond those so many times their packed size
STORED, DEFLATED = 0, 8

_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"


class Member(NamedTuple):
    """A file in an archive: its bytes lie at [start, start + packed) of the archive and are `size` when unpacked."""

    start: int
    packed: int
    size: int
    method: int
    crc: int


class Archive:
    """An archive's members by name, without its folders. Closing is left to the last view of it.

    Args:
      source: a path (mapped), or the bytes.

    Raises:
      ValueError: no zip, cut off, or one that lies.
      OSError: the file cannot be opened.
    """

    def __init__(self, source: Path | bytes):
        if isinstance(source, Path):
            with source.open("rb") as file:
                data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # ValueError where it is empty
        else:
            data = source
        self.size, self._view = len(data), memoryview(data)
        first, length, count = _directory(data)
        self.members = _members(data, first, length, count)
        self._packed = self._unpacked = 0  # of what was unpacked so far

    def read(self, name: str) -> memoryview:
        """A member's bytes, unpacked and checked by their CRC. Raises ValueError: a bomb, or damaged. KeyError."""
        member = self.members[name]
        if member.method not in (STORED, DEFLATED):
            raise ValueError(f"'{name}' is compressed by method {member.method}; stored and deflated are read")
        packed = self._view[member.start : member.start + member.packed]
        data = packed if member.method == STORED else self._inflate(name, member, packed)
        if zlib.crc32(data) != member.crc:
            raise ValueError(f"'{name}' is damaged: its checksum is another one")
        return data

    def _inflate(self, name: str, member: Member, packed: memoryview) -> memoryview:
        self._packed, self._unpacked = self._packed + member.packed, self._unpacked + member.size
        if self._unpacked > FREE + RATIO * self._packed:
            raise ValueError(
                f"'{name}' claims {member.size:,} bytes from {member.packed:,} compressed ones, over {RATIO} times as "
                f"many: a decompression bomb is refused. If you trust it, save it uncompressed (numpy: np.savez)"
            )
        inflate = zlib.decompressobj(-15)
        data = inflate.decompress(packed, member.size + 1)  # grows as it goes: never more than was checked
        if len(data) != member.size or not (inflate.eof or not inflate.decompress(inflate.unconsumed_tail, 1)):
            raise ValueError(f"'{name}' does not unpack to the {member.size:,} bytes that it claims")
        return memoryview(data)


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip does (an empty one begins with its end)."""
    with path.open("rb") as file:
        return file.read(4) in (_LOCAL, _END)


def _directory(data: Any) -> tuple[int, int, int]:
    """(offset, bytes, entries) of the central directory."""
    end = data.rfind(_END, max(0, len(data) - 22 - 0xFFFF))
    if end < 0 or end + 22 > len(data):
        raise ValueError("it is no zip archive, or cut off: it has no directory at its end")
    disk, first_disk, here, count, length, first, comment = struct.unpack_from("<4H2LH", data, end + 4)
    if end + 22 + comment != len(data):
        raise ValueError("it is no zip archive, or cut off: something follows its directory")
    if end >= 20 and data[end - 20 : end - 16] == _LOCATOR:
        (at,) = struct.unpack_from("<Q", data, end - 12)
        if not 0 <= at <= end - 76 or data[at : at + 4] != _END64:
            raise ValueError("its zip64 directory lies outside the file")
        disk, first_disk, here, count, length, first = struct.unpack_from("<2L4Q", data, at + 16)
        end = at
    if disk or first_disk or here != count:
        raise ValueError("it is one part of a zip of several")
    if count > MAX_MEMBERS or length > MAX_DIRECTORY:
        raise ValueError(
            f"its directory claims {count:,} members in {length:,} bytes; at most {MAX_MEMBERS:,} in {MAX_DIRECTORY:,}"
        )
    if first + length > end:
        raise ValueError("its directory lies outside the file")
    return first, length, count


def _members(data: Any, first: int, length: int, count: int) -> dict[str, Member]:
    members: dict[str, Member] = {}
    spans = []
    at, end = first, first + length
    for _ in range(count):
        if at + 46 > end or data[at : at + 4] != _ENTRY:
            raise ValueError("its directory is damaged")
        flags, method = struct.unpack_from("<2H", data, at + 8)
        crc, packed, size, names, extras, comments = struct.unpack_from("<3L3H", data, at + 16)
        (local,) = struct.unpack_from("<L", data, at + 42)
        raw, extra = data[at + 46 : at + 46 + names], data[at + 46 + names : at + 46 + names + extras]
        at += 46 + names + extras + comments
        if at > end:
            raise ValueError("its directory is damaged")
        size, packed, local = _wide(extra, [size, packed, local])
        name = raw.decode("utf-8" if flags & 0x800 else "cp437")
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
            raise ValueError(f"its member {name[:80]!r} leads out of the archive")
        if flags & 1:
            raise ValueError(f"its member {name[:80]!r} is encrypted")
        if local + 30 > first or data[local : local + 4] != _LOCAL:
            raise ValueError(f"its member {name[:80]!r} lies outside the file")
        own_names, own_extras = struct.unpack_from("<2H", data, local + 26)
        start = local + 30 + own_names + own_extras
        if data[local + 30 : local + 30 + own_names] != raw or start + packed > first:
            raise ValueError(f"its member {name[:80]!r} lies outside the file, or has two names")
        if method == STORED and size != packed:
            raise ValueError(f"its member {name[:80]!r} is stored, and claims {size:,} bytes of {packed:,}")
        spans.append((local, start + packed))
        if name.endswith("/"):
            continue
        if name in members:
            raise ValueError(f"its member {name[:80]!r} is there twice")
        members[name] = Member(start, packed, size, method, crc)
    spans.sort()
    if any(begin < before for (_, before), (begin, _) in zip(spans, spans[1:])):
        raise ValueError("its members overlap")
    return members


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """`values` (size, packed, offset) with the 64-bit ones from the extra field of zip64."""
    at = 0
    while 0xFFFFFFFF in values and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            more = iter(struct.unpack_from(f"<{length // 8}Q", extra[at + 4 : at + 4 + length]))
            return [next(more, value) if value == 0xFFFFFFFF else value for value in values]
        at += 4 + length
    return values
