"""TFRecord files: where their records are, and one record at an offset. No TensorFlow.

A record is: length (u64, little endian), masked crc32c of these eight bytes, data, masked crc32c of the data
(tensorflow/core/lib/io/record_writer.h).
"""

import functools
import os
import struct
from pathlib import Path

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.limits import BadImage, check_bytes

HEAD, TAIL = 12, 4  # bytes before and after the data


def scan(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, lengths) int64 [n] of the data of every record, by their headers alone, each checked.

    Raises: UserError where the chain of headers breaks.
    """
    offsets, lengths, at = [], [], 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            head = os.pread(file.fileno(), HEAD, at)
            if len(head) < HEAD or struct.unpack("<I", head[8:])[0] != _masked(_slow_crc32c(head[:8])):
                raise UserError(
                    f"{path} is damaged at byte {at}: the checksum of a record's length is wrong, so the records after "
                    f"it cannot be found. {_MEND}"
                )
            (length,) = struct.unpack("<Q", head[:8])
            if at + HEAD + length + TAIL > size:
                raise UserError(
                    f"{path} is cut off: its last record, at byte {at}, needs "
                    f"{at + HEAD + length + TAIL - size} bytes more. {_MEND}"
                )
            offsets.append(at + HEAD)
            lengths.append(length)
            at += HEAD + length + TAIL
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


_MEND = "Copy or prepare the file again (a compressed TFRecord looks like this too: prepare it without compression)."


def read_record(file: int, offset: int, length: int) -> bytes:
    """The data at `offset` of an open file (descriptor), checked where google-crc32c is installed. Raises BadImage."""
    check_bytes(length)
    data = os.pread(file, length + TAIL, offset)
    if len(data) != length + TAIL:
        raise BadImage("its record is cut off")
    record, checksum = data[:length], struct.unpack("<I", data[length:])[0]
    crc32c = fast_crc32c()
    if crc32c is not None and _masked(crc32c(record)) != checksum:
        raise BadImage("the checksum of its record is wrong")
    return record


@functools.cache
def fast_crc32c():
    """google-crc32c's function of bytes; None where it, or its compiled part, is not installed."""
    try:
        import google_crc32c
    except ImportError:
        return None
    return google_crc32c.value if google_crc32c.implementation == "c" else None


def _masked(crc: int) -> int:
    """The crc as it is stored: rotated right by 15 bits plus a constant (tensorflow/core/lib/hash/crc32c.h)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    """Of crc32c: Castagnoli's polynomial, reflected."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()
