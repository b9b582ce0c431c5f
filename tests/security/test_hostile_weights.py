"""Weights from an attacker: every file is refused as a UserError, runs nothing, and takes little memory and time."""

import os
import pickle
import struct
import zipfile

import hostile
import numpy as np
import pytest
from hostile import npy, npz, patched, safetensors, state_dict, tensor, torch_file

from mae_jax.core.errors import UserError
from mae_jax.interop.files import read_tensors

HUGE = 1 << 40
F32 = bytes(64)


class Call:
    """Pickles as any call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def nested(opening: bytes, closing: bytes, depth: int = 60) -> bytes:
    """A tuple of twice the same tuple of twice the same ...: a few bytes, 2^depth parts when somebody looks at them."""
    return opening + b"".join(b"2\x86" for _ in range(depth)) + closing


def torch_files(folder):
    """(path, what its refusal says) of torch files."""

    def make(name, content, storages=None, **more):
        return torch_file(folder / f"{name}.pth", content, {"0": F32} if storages is None else storages, **more)

    yield make("beyond_the_storage", state_dict(tensor("0", 16, (17,), (1,)))), "does not fit"
    yield make("claimed_storage", state_dict(tensor("0", HUGE, (2,), (1,)))), "does not hold"
    yield make("huge_shape", state_dict(tensor("0", 16, (HUGE, HUGE), (0, 0)))), "does not fit"
    yield make("negative_stride", state_dict(tensor("0", 16, (2,), (-1,)))), "whole numbers"
    yield make("negative_offset", state_dict(tensor("0", 16, (2,), (1,), -8))), "whole numbers"
    yield make("overflow", state_dict(tensor("0", 16, (2,), (2**63,)))), "whole numbers"
    yield make("many_axes", state_dict(tensor("0", 16, (1,) * 40, (1,) * 40))), "whole numbers"
    yield make("shape_of_shapes", state_dict(
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + hostile.storage("0", "FloatStorage", 16) + b"K\0"
        + nested(b"K\1", b"") + b"(K\1t\x89NtR")), "whole numbers"  # fmt: skip
    views = [tensor("0", 1 << 18, (1 << 18,), (1,)) for _ in range(9)]
    yield make("a_thousand_views", state_dict(*views), {"0": bytes(1 << 20)}), "times as large as the file"
    yield make("nested_key", b"\x80\x02}(" + nested(b"K\1", b"") + b"K\1u."), "none of them"
    yield make("itself", b"\x80\x02}q\0(X\5\0\0\0modelh\0u."), "without an end"
    yield make("huge_memo", b"\x80\x02}r\xff\xff\xff\x7f."), "no tensor"
    yield make("huge_text", b"\x80\x04\x8d" + HUGE.to_bytes(8, "little") + b"x."), "cannot be read"
    yield make("huge_bytes", b"\x80\x04\x8e" + HUGE.to_bytes(8, "little") + b"x."), "cannot be read"
    yield make("huge_integer", b"\x80\x02\x8b\xff\xff\xff\x7f\1."), "cannot be read"
    yield (
        make("amplified", b"\x80\x02X\0\0\1\0" + b"a" * 65536 + b"q\0" + b"c_codecs\nencode\nh\0\x85R0" * 5000 + b"."),
        ("makes more"),
    )
    yield make("no_end", b"\x80\x02}"), "exhausted"
    yield make("empty_stack", b"\x80\x020."), "cannot be read"
    yield make("extension", b"\x80\x02\x82\1."), "opcode EXT1"
    yield make("deep", b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b"."), "no state dict"
    yield (
        make("module_of_itself", b"\x80\x02ctorch\nModule\n)\x81q\0}X\x08\0\0\0_modules}X\1\0\0\0ah\0ssb."),
        ("without an end"),
    )
    yield make("no_storage", state_dict(tensor("../../../etc/passwd", 1, (1,), (1,)))), "KeyError"
    yield make("object_storage", state_dict(tensor("0", 2, (2,), (1,), kind="ObjectStorage"))), "no known type"
    yield make("big_endian", state_dict(tensor("0", 2, (2,), (1,))), byteorder=b"big"), "byte order"
    with zipfile.ZipFile(folder / "compressed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", state_dict(tensor("0", 16, (2,), (1,))))
        archive.writestr("a/data/0", F32)
    yield folder / "compressed.pth", "is compressed"
    yield hostile.bomb(folder / "pickle_bomb.pth", "a/data.pkl", b"\x80\x02", 1 << 27), "at most"
    (folder / "old.pth").write_bytes(pickle.dumps({"w": 1}))
    yield folder / "old.pth", "no .safetensors"


def zips(folder):
    """Archives that lie, as .npz."""
    ones = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (16,), }", F32)

    def make(name, **members):
        return npz(folder / f"{name}.npz", members or {"x.npy": ones, "y.npy": ones})

    yield npz(folder / "escape.npz", {"../x.npy": ones}), "leads out"
    yield npz(folder / "absolute.npz", {"/x.npy": ones}), "leads out"
    yield npz(folder / "drive.npz", {"c:/x.npy": ones}), "leads out"
    yield patched(make("twice"), b"y.npy", b"x.npy"), "there twice"
    yield patched(make("two_names"), b"y.npy", b"z.npy", 1), "two names"
    path = make("overlap")
    data = bytearray(path.read_bytes())
    first, second = data.find(b"PK\1\2"), data.rfind(b"PK\1\2")
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # the second member lies where the first does
    data[second + 46 : second + 51] = b"x.npy"
    path.write_bytes(data)
    yield path, "twice|overlap"
    nested_member = bytearray(make("inside").read_bytes())
    inner = nested_member.find(b"PK\3\4", 4)
    size = struct.pack("<L", 2 * len(ones))
    first = nested_member.find(b"PK\1\2")
    nested_member[first + 20 : first + 28] = size + size  # the first member reaches over the second
    (folder / "inside.npz").write_bytes(nested_member)
    assert inner < 2 * len(ones)
    yield folder / "inside.npz", "overlap|outside"
    for name, at, value in (("size", 24, 0xFFFFFFF0), ("packed", 20, 0xFFFFFFF0), ("offset", 42, 0xFFFFFF00)):
        data = bytearray(make(f"claimed_{name}").read_bytes())
        entry = data.find(b"PK\1\2")
        data[entry + at : entry + at + 4] = struct.pack("<L", value)
        (folder / f"claimed_{name}.npz").write_bytes(data)
        yield folder / f"claimed_{name}.npz", "claims|outside"
    data = make("directory").read_bytes()
    end = data.rfind(b"PK\5\6")
    for name, fields in {"members": (0, 0, 0xFFFF, 0xFFFF), "parts": (1, 0, 2, 2), "counts": (0, 0, 1, 2)}.items():
        (folder / f"{name}.npz").write_bytes(data[: end + 4] + struct.pack("<4H", *fields) + data[end + 12 :])
        yield folder / f"{name}.npz", "damaged|several|outside"
    wide = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 1 << 50, 0)
    tail = b"PK\6\7" + struct.pack("<LQL", 0, end, 1) + data[end:]
    (folder / "zip64.npz").write_bytes(data[:end] + wide + tail)
    yield folder / "zip64.npz", "claims"
    yield patched(make("encrypted"), b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"), "encrypted"
    yield npz(folder / "lzma.npz", {"x.npy": ones}, zipfile.ZIP_LZMA), "method 14"
    yield patched(make("damaged"), F32, b"\1" + F32[1:], 1), "checksum"
    (folder / "cut.npz").write_bytes(data[: len(data) // 2])
    yield folder / "cut.npz", "cut off"
    (folder / "empty.npz").write_bytes(b"")
    yield folder / "empty.npz", "cut off"
    head = npy(f"{{'descr': 'u1', 'fortran_order': False, 'shape': ({5 << 26},), }}")
    yield hostile.bomb(folder / "bomb.npz", "x.npy", head, 5 << 26), "bomb"


def arrays(folder):
    """Arrays that lie, in .npz files that do not."""

    def make(name, header, body=F32, version=1):
        return npz(folder / f"{name}.npz", {"x.npy": npy(header, body, version)})

    def header(descr="'<f4'", shape="(16,)"):
        return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"

    np.savez(folder / "objects.npz", x=np.array([Call(os.mkdir, str(folder / "made"))], object))
    yield folder / "objects.npz", "objects"
    yield make("huge", header(shape=f"({HUGE},)")), "the file holds"
    yield make("huge_product", header(shape=f"({HUGE}, {HUGE}, {HUGE})")), "the file holds"
    yield make("negative", header(shape="(-1,)")), "shape"
    yield make("true", header(shape="(True,)")), "shape|header"
    yield make("records", header("[('a', '<f4'), ('b', 'O')]")), "objects"
    yield make("wide_text", header("'<U999999999'", "(0,)")), "numbers or text|descriptor"
    yield make("nested", "(" * 3000 + ")" * 3000), "header"
    yield make("minus", "-" * 9000 + "1"), "header"
    yield make("long", header() + " " * 20_000), "header"
    yield make("version_9", header(), version=9), "version"
    yield make("no_header", "x"), "header"
    yield npz(folder / "short.npz", {"x.npy": b"\x93NUM"}), "header"


def safetensors_files(folder):
    def make(name, header, body=F32, length=None):
        return safetensors(folder / f"{name}.safetensors", header, body, length)

    def entry(start=0, end=64, shape=(16,), dtype="F32"):
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}

    yield make("long_header", {"a": entry()}, length=1 << 62), "header"
    yield make("zero_header", {"a": entry()}, length=0), "header"
    yield make("oversized", b'{"a":' + b" " * (17 << 20) + b"1}"), "at most"
    yield make("overlap", {"a": entry(), "b": entry()}), "overlap"
    yield make("beyond", {"a": entry(0, 128, (32,))}), "lies at bytes"
    yield make("negative", {"a": entry(-4, 60)}), "offsets"
    yield make("backwards", {"a": entry(64, 0, (0,))}), "lies at bytes"
    yield make("huge", {"a": entry(0, 64, (HUGE, HUGE))}), "lies at bytes"
    yield make("negative_shape", {"a": entry(0, 64, (-4, -4))}), "shape"
    yield make("text_shape", {"a": entry(0, 64, ("16",))}), "shape"
    yield make("axes", {"a": entry(0, 64, (1,) * 70 + (16,))}), "shape"
    yield make("digits", b'{"a": {"dtype": "F32", "shape": [' + b"9" * 9000 + b'], "data_offsets": [0, 64]}}'), "cannot"
    yield make("type", {"a": entry(dtype="PICKLE")}), "PICKLE"
    yield make("twice", b'{"a": %s, "a": %s}' % ((b'{"dtype":"F32","shape":[16],"data_offsets":[0,64]}',) * 2)), "twice"
    yield make("deep", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "deeply"
    yield make("list", b"[1, 2]"), "cannot be read"
    yield make("none", b"{}", b""), "no tensor"


MAKERS = {"torch": torch_files, "zips": zips, "arrays": arrays, "safetensors": safetensors_files}


@pytest.mark.parametrize("kind", MAKERS)
def test_hostile_files_are_refused(tmp_path, kind):
    cases = list(MAKERS[kind](tmp_path))
    found = hostile.opened_in_a_child(
        [path for path, _ in cases], "from mae_jax.interop.files import read_tensors\nfrom pathlib import Path",
        "read_tensors(Path(path))",
    )  # fmt: skip
    wrong = {}
    for path, says in cases:
        name, message = found[path.name]
        if name != "UserError" or not any(part in message for part in says.split("|")):
            wrong[path.name] = (name, message[:300], says)
    assert not wrong
    assert not (tmp_path / "made").exists()


def test_what_a_pickle_asks_for_is_not_done(tmp_path):
    """Calls, attributes set on what lies about, numpy's own ways into memory: all of it stays a record."""
    w = tensor("0", 2, (2,), (1,))
    made = Call(os.mkdir, str(tmp_path / "made"))
    evil = pickle.dumps([made, Call(exec, "open('made', 'w')"), Call(np.ndarray, (1,), "O", b"A" * 8)], 2)[2:-1]
    slots = b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__K\1s\x86b0"  # BUILD on a function
    path = torch_file(
        tmp_path / "a.pth", b"\x80\x02" + slots + b"}(X\1\0\0\0x" + evil + b"X\2\0\0\0w0" + w + b"u.", {"0": F32}
    )
    assert {name: array.tolist() for name, array in read_tensors(path).items()} == {"w0": [0, 0]}
    assert not (tmp_path / "made").exists()
    pickle.loads(
        pickle.dumps(Call(os.mkdir, str(tmp_path / "made")), 2)
    )  # the attack is real: Python does as it is told
    assert (tmp_path / "made").exists()


def test_good_files_still_open(tmp_path):
    """Twice the same storage (tied weights), zip64, compression, Fortran order: what honest writers do."""
    path = torch_file(tmp_path / "a.pth", state_dict(tensor("0", 16, (4, 4), (1, 4)), tensor("0", 16, (16,), (1,))),
                      {"0": np.arange(16, dtype="<f4").tobytes()})  # fmt: skip
    found = read_tensors(path)
    np.testing.assert_array_equal(found["w0"], np.arange(16).reshape(4, 4).T)
    np.testing.assert_array_equal(found["w1"], np.arange(16))
    x = np.asfortranarray(np.arange(12).reshape(3, 4))
    np.savez_compressed(tmp_path / "b.npz", x=x, empty=np.zeros((0, 3)), scalar=np.float64(2))
    found = read_tensors(tmp_path / "b.npz")
    np.testing.assert_array_equal(found["x"], x)
    assert found["empty"].shape == (0, 3) and found["scalar"] == 2 and found["x"].flags.writeable
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive, archive.open("x.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, x)
    np.testing.assert_array_equal(read_tensors(tmp_path / "c.npz")["x"], x)


def test_a_device_is_no_file():
    with pytest.raises(UserError, match="no file"):
        read_tensors("/dev/zero")
