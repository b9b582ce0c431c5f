"""tf.train.Example on the wire, read and written without TensorFlow or protobuf.

The schema (tensorflow/core/example/example.proto and feature.proto), as field numbers:

    Example   1: Features                 Features  1: map entry (1: key, 2: Feature), repeated
    Feature   1: BytesList  2: FloatList  3: Int64List    each with 1: values, repeated (numbers packed or not)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Values = list[memoryview] | np.ndarray
Writable = bytes | memoryview | Sequence[bytes | memoryview] | np.ndarray
BYTES, FLOATS, INTS = 1, 2, 3  # the fields of Feature
_VARINT, _FIXED32, _DELIMITED = 0, 5, 2  # wire types


class BadExample(ValueError):
    """Bytes that are no tf.train.Example, with the reason."""


def read_example(data: bytes | memoryview) -> dict[str, Values]:
    """The features of one Example: lists of bytes as views into `data`, numbers as int64 or float32 arrays [n].

    What protobuf merges is merged (fields that come twice, a key that comes twice: the last). A feature without a
    kind is an empty list of bytes. Stricter than protobuf: a field that is not in the schema is an error.

    Raises: BadExample.
    """
    return {key: _feature(view) for key, view in _entries(memoryview(data))}


def find_feature(data: bytes | memoryview, key: str) -> Values | None:
    """One feature of an Example, None if it has no such key. The others' values are not touched. Raises BadExample."""
    found = None
    for name, view in _entries(memoryview(data)):
        if name == key:
            found = view
    return None if found is None else _feature(found)


def feature_keys(data: bytes | memoryview) -> list[str]:
    """The names of an Example's features, sorted. Raises BadExample."""
    return sorted({name for name, _ in _entries(memoryview(data))})


def write_example(features: Mapping[str, Writable]) -> bytes:
    """An Example of these features, sorted by name, so that equal features are equal bytes.

    Args:
        features: bytes or a list of them; arrays of integers (flattened, as int64) or floats (as float32).

    Raises: TypeError for anything else; OverflowError for integers beyond int64.
    """
    entries = []
    for key in sorted(features):
        name, value = key.encode(), _written_feature(features[key])
        head = _tag(1, _DELIMITED) + _varint(len(name)) + name + _tag(2, _DELIMITED) + _varint(len(value))
        entries.append(_tag(1, _DELIMITED) + _varint(len(head) + len(value)) + head + value)
    return _delimited(1, b"".join(entries))


def _entries(data: memoryview) -> Iterator[tuple[str, memoryview]]:
    """(key, the Feature's bytes) of every entry."""
    for features in _fields(data, "Example", {1: _DELIMITED}):
        for entry in _fields(features[1], "Features", {1: _DELIMITED}):
            key, value = b"", memoryview(b"")
            for number, view in _fields(entry[1], "a map entry", {1: _DELIMITED, 2: _DELIMITED}):
                if number == 1:
                    key = bytes(view)
                else:
                    value = view
            try:
                name = key.decode()
            except UnicodeDecodeError as error:
                raise BadExample("a feature's name is not UTF-8") from error
            yield name, value


def _feature(view: memoryview) -> Values:
    kind = BYTES
    lists: list[memoryview] = []
    for number, values in _fields(view, "Feature", {BYTES: _DELIMITED, FLOATS: _DELIMITED, INTS: _DELIMITED}):
        if number != kind:
            kind, lists = number, []
        lists.append(values)
    if kind == BYTES:
        return [item for values in lists for _, item in _fields(values, "BytesList", {1: _DELIMITED})]
    parts = [part for values in lists for part in (_floats(values) if kind == FLOATS else _ints(values))]
    dtype = np.dtype(np.float32 if kind == FLOATS else np.int64)
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _floats(values: memoryview) -> Iterator[np.ndarray]:
    for _, item in _fields(values, "FloatList", {1: None}):
        if len(item) % 4:
            raise BadExample(f"a list of floats has {len(item)} bytes, no multiple of 4")
        yield np.frombuffer(item, "<f4").astype(np.float32, copy=False)


def _ints(values: memoryview) -> Iterator[np.ndarray]:
    for _, item in _fields(values, "Int64List", {1: None}):
        numbers, at = [], 0
        while at < len(item):
            number, at = _read_varint(item, at)
            numbers.append(number)
        yield np.array(numbers, np.uint64).view(np.int64)


def _fields(data: memoryview, what: str, schema: Mapping[int, int | None]) -> Iterator[tuple[int, memoryview]]:
    """(field number, bytes of the value) of a message's fields; wire type None: packed and single numbers."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number not in schema:
            raise BadExample(f"{what} has a field {number}, which the schema does not know")
        if wire == _DELIMITED:
            size, at = _read_varint(data, at)
        elif schema[number] is None and wire == (_FIXED32 if what == "FloatList" else _VARINT):
            size = 4 if wire == _FIXED32 else _read_varint(data, at)[1] - at
        else:
            raise BadExample(f"field {number} of {what} has the wire type {wire}")
        if at + size > end:
            raise BadExample(f"{what} is cut off: {at + size - end} bytes are missing")
        yield number, data[at : at + size]
        at += size


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """(the number, where it ends)."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise BadExample("a number is cut off")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >> 64:
                break
            return number, at
    raise BadExample("a number has more than 64 bits")


def _written_feature(value: Any) -> bytes:
    if isinstance(value, bytes | memoryview):
        value = [value]
    if isinstance(value, list | tuple) and all(isinstance(v, bytes | memoryview) for v in value):
        return _delimited(BYTES, b"".join(_delimited(1, v) for v in value))
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return _delimited(FLOATS, _packed(value.astype("<f4").tobytes()))
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        if value.size and int(value.max()) > np.iinfo(np.int64).max:
            raise OverflowError(f"{value.max()} does not fit an int64")
        return _delimited(INTS, _packed(b"".join(_varint(int(v) % 2**64) for v in value.ravel())))
    raise TypeError(f"a feature is bytes, a list of bytes, or an array of integers or floats, not {type(value)}")


def _packed(numbers: bytes) -> bytes:
    return _delimited(1, numbers) if numbers else b""


def _delimited(number: int, value: bytes | memoryview) -> bytes:
    return b"".join((_tag(number, _DELIMITED), _varint(len(value)), value))


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
