"""tf.train.Example: byte for byte against protobuf's own classes, and strict with what is broken."""

import numpy as np
import pytest

from mae_jax.data.examples import BadExample, feature_keys, find_feature, read_example, write_example

JPEG = bytes(range(256)) * 700
INTS = [0, 1, -1, 127, 128, 300, 2**31, -(2**31), 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.5, 3.4e38, float("inf"), 1e-45]


@pytest.fixture(scope="module")
def protos():
    pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    return tf_example_pb2, tf_feature_pb2


def by_protobuf(protos, features):
    example, feature = protos
    kinds = {"i": ("int64_list", feature.Int64List), "f": ("float_list", feature.FloatList)}

    def one(value):
        if isinstance(value, np.ndarray):
            field, kind = kinds[value.dtype.kind]
            return feature.Feature(**{field: kind(value=value.ravel())})
        return feature.Feature(bytes_list=feature.BytesList(value=[value] if isinstance(value, bytes) else value))

    return example.Example(features=feature.Features(feature={k: one(v) for k, v in features.items()}))


EVERYTHING = {
    "image": JPEG,
    "names": [b"a", b"", b"\xff\x00"],
    "ints": np.array(INTS),
    "floats": np.array(FLOATS, np.float32),
    "none": np.array([], np.int64),
    "no floats": np.array([], np.float32),
    "no bytes": [],
    "é/slash": b"x" * 128,
}


def test_reads_what_protobuf_writes(protos):
    data = by_protobuf(protos, EVERYTHING).SerializeToString()
    read = read_example(data)
    assert set(read) == set(EVERYTHING) == set(feature_keys(data))
    assert list(read["image"]) == [JPEG] and list(read["names"]) == EVERYTHING["names"]
    for key in ("ints", "floats", "none", "no floats"):
        assert read[key].dtype == EVERYTHING[key].dtype
        np.testing.assert_array_equal(read[key], EVERYTHING[key])
    assert find_feature(data, "é/slash") == [b"x" * 128] and find_feature(data, "é") is None


def test_protobuf_reads_what_we_write(protos):
    """Value by value; and of one feature, where no order of keys is left open, byte by byte."""
    assert protos[0].Example.FromString(write_example(EVERYTHING)) == by_protobuf(protos, EVERYTHING)
    for key, value in EVERYTHING.items():
        assert write_example({key: value}) == by_protobuf(protos, {key: value}).SerializeToString(), key
    assert write_example(dict(reversed(EVERYTHING.items()))) == write_example(EVERYTHING)


def test_random_examples(protos):
    rng = np.random.default_rng(0)
    for _ in range(200):
        features = {
            f"k{i}": [
                rng.bytes(int(rng.integers(0, 300))),
                rng.integers(-(2**62), 2**62, rng.integers(0, 5)) >> rng.integers(0, 62),
                rng.standard_normal(int(rng.integers(0, 40))).astype(np.float32),
            ][rng.integers(3)]
            for i in range(rng.integers(0, 6))
        }
        message = by_protobuf(protos, features)
        data = message.SerializeToString()
        assert protos[0].Example.FromString(write_example(read_example(data))) == message


def test_bytes_are_views_not_copies():
    data = write_example({"image": JPEG})
    (view,) = read_example(data)["image"]
    assert isinstance(view, memoryview) and view.obj is data


def test_numbers_one_by_one_and_merging(protos):
    """proto2's unpacked numbers, and messages joined end to end, which protobuf reads as merged."""
    unpacked = b"".join(b"\x08" + bytes([v]) for v in (5, 6))
    feature = b"\x1a" + bytes([len(unpacked)]) + unpacked
    entry = b"\x0a\x01k\x12" + bytes([len(feature)]) + feature
    inner = b"\x0a" + bytes([len(entry)]) + entry
    data = b"\x0a" + bytes([len(inner)]) + inner
    assert list(protos[0].Example.FromString(data).features.feature["k"].int64_list.value) == [5, 6]
    np.testing.assert_array_equal(read_example(data)["k"], [5, 6])
    joined = data + write_example({"other": b"x", "k": np.array([9])})
    assert list(protos[0].Example.FromString(joined).features.feature["k"].int64_list.value) == [9]
    np.testing.assert_array_equal(find_feature(joined, "k"), [9])
    assert feature_keys(joined) == ["k", "other"]


def test_every_cut_is_seen():
    """A prefix of an Example is none: at every length but 0, which is the empty Example."""
    data = write_example({"image": b"0123456789", "label": np.array([300, -1]), "f": np.ones(2, np.float32)})
    for length in range(1, len(data)):
        with pytest.raises(BadExample):
            read_example(data[:length])
    assert read_example(b"") == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xd8\xff\xe0 a JPEG", "field .* which the schema does not know|wire type"),
        (b"\x12\x00", "field 2"),
        (b"\x08\x01", "wire type 0"),
        (b"\x0a" + b"\xff" * 10, "64 bits"),
        (b"\x0a\x09\x0a\x07\x0a\x01\xff\x12\x02\x0a\x00", "UTF-8"),
        (b"\x0a\x0e\x0a\x0c\x0a\x01k\x12\x07\x12\x05\x0a\x03abc", "multiple of 4"),
    ],
)
def test_what_is_broken(data, words):
    with pytest.raises(BadExample, match=words):
        read_example(data)


def test_what_cannot_be_written():
    for value in (np.array(["a"]), np.array([True]), np.array([1j])):
        with pytest.raises(TypeError, match="bytes, a list of bytes"):
            write_example({"k": value})
    with pytest.raises(OverflowError):
        write_example({"k": np.array([2**63], np.uint64)})
