"""Data from an attacker: a bad record is a BadImage, which is replaced and counted; a bad source a UserError."""

import io
import json
import os
import struct
import tarfile
import zlib

import hostile
import numpy as np
import pytest
from hostile import npy, npz, patched
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data.limits import FORMATS, BadImage, open_image
from mae_jax.data.point_files import read_h5
from mae_jax.data.sources import make_source

READ = """
from pathlib import Path
from mae_jax.data.audio import read as read_audio
from mae_jax.data.decode import decode, upright_size
from mae_jax.data.limits import read_file
from mae_jax.data.point_files import EXTENSIONS, read_cloud
from mae_jax.data.sources import make_source
from mae_jax.data.video_file import VideoFile

def read(path):
    kind, path = path.suffix[1:], Path(path)
    if kind in ("mp4", "avi", "m3u8"):
        return VideoFile(path).frames([0])
    if kind == "wav":
        return read_audio(read_file(path))
    if path.parent.name == "clouds":
        return read_cloud(path)
    if kind == "tar":
        source = make_source("tar", "train", {"path": str(path), "holdout": 0.0})
        return [source.image(i) for i in range(len(source))]
    if kind in ("npz", "npy"):
        return make_source("npz", "train", {"path": str(path)}).image(0)
    upright_size(read_file(path))
    return decode(read_file(path), 3)
"""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes = b"") -> bytes:
    header = struct.pack(">2L5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, bits: int = 8, samples: int = 1, offset: int = 8) -> bytes:
    """One page whose directory claims what it likes."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, samples),
            (278, 4, height), (279, 4, 16)]  # fmt: skip
    entries = b"".join(struct.pack("<2HLL", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + struct.pack("<L", offset)


def images(folder):
    def make(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    yield make("pixels.png", png(1 << 16, 1 << 16)), "178,000,000"
    yield make("negative.png", png(1 << 31, 1)), ""
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 28), 9))
    yield (
        make("text.png", png(8, 8, bytes(200)).replace(chunk(b"IEND", b""), text + chunk(b"IEND", b""))),
        "Decompressed",
    )
    yield make("pixels.gif", b"GIF89a" + struct.pack("<2H", 65535, 65535) + bytes(20)), ""
    yield (
        make("ghost.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(made) (w) file\n"),
        "no known image format",
    )
    yield make("page.tif", tiff(1 << 20, 1 << 20)), "limit"
    text = tiff(8, 1 << 30).replace(struct.pack("<2HLL", 256, 4, 1, 8), struct.pack("<2HL4s", 256, 2, 4, b"wide"))
    yield make("words.tif", text), "two whole numbers"  # found by test_fuzz.py: height x "wide"
    yield make("samples.tif", tiff(4096, 4096, 64, 60000)), ""
    yield (
        make("channels.jpg", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 1099511627776), }")),
        "holds",
    )
    yield (
        make("pixels.bmp", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (99999, 99999, 3), }")),
        "178,000,000",
    )
    yield (
        make("objects.png", npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }", b"cos\nsystem\n" * 9)),
        "obj",
    )
    os.mkfifo(folder / "fifo.png")
    yield folder / "fifo.png", "no plain file"
    (folder / "zero.jpg").symlink_to("/dev/zero")
    yield folder / "zero.jpg", "no plain file"
    with open(folder / "large.png", "wb") as file:
        file.truncate(2 << 30)
    yield folder / "large.png", "MAX_FILE"


def clouds(folder):
    def make(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    def ply(elements, body=b"", form="binary_little_endian"):
        return f"ply\nformat {form} 1.0\n{elements}end_header\n".encode() + body

    vertex = "element vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
    face = "property list char uchar vertex_indices\n"
    yield make("huge.ply", ply(vertex.replace("1", "99999999999"))), "more numbers"
    yield make("none.ply", ply("element nothing 99999999999\n")), "more numbers"
    yield make("minus.ply", ply(vertex.replace("1", "-1"))), "negative"
    yield make("list.ply", ply(f"{vertex}element face 9\n{face}", bytes(12) + b"\xff" * 999)), "corners"
    yield make("text.ply", ply(f"{vertex}element face 9\n{face}", b"0 0 0 -5 1", "ascii")), "corners"
    scalar = face.replace("list char ", "")  # found by test_fuzz.py
    yield make("one.ply", ply(f"{vertex}element face 1\n{scalar}", b"0 0 0 3", "ascii")), "a list of vertices"
    yield make("header.ply", b"ply\n" + b"comment a\n" * 9999 + b"end_header\n"), "header"
    yield make("huge.off", b"OFF 99999999999 1 0\n"), "claims"
    yield make("back.off", b"OFF 3 9999 0\n0 0 0 1 0 0 0 1 0 3 0 1 2 -4\n"), "corners"
    yield make("huge.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 3), }")), "holds"
    yield make("words.txt", b"1 " * 60_000_000), "words"
    head = npy(f"{{'descr': '<u1', 'fortran_order': False, 'shape': ({5 << 26},), }}")
    yield hostile.bomb(folder / "bomb.npz", "points.npy", head, 5 << 26), "bomb"


def tar_member(name: str, data: bytes = b"", size: int | None = None, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size is not None:  # as base 256, which can be negative
        head[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data + bytes(-len(data) % 512)


def tars(folder):
    end, good = bytes(1024), tar_member("a/1.png", png(8, 8, bytes(200)))

    def make(name, *parts):
        (folder / f"{name}.tar").write_bytes(b"".join(parts))
        return folder / f"{name}.tar"

    yield make("long", tar_member("a.png", b"x" * 600, size=1 << 40), end), "whole .tar"
    yield make("negative", good, tar_member("a.png", b"", size=-1024), good, end), "whole .tar"
    yield make("pax", tar_member("p", b"9" * 99, size=1 << 40, kind=b"x"), good, end), "at most"
    yield make("pax_negative", tar_member("p", b"", size=-512, kind=b"x"), good, end), "whole .tar"
    yield make("name", tar_member("p", b"", size=1 << 33, kind=b"L"), good, end), "at most"
    yield make("twice", good, good, end), "twice"
    yield make("cut", good[:-512]), ""
    yield make("links", tar_member("a.png", kind=b"2"), tar_member("b.png", kind=b"1"), end), "No sample"
    yield (
        make("label", good, tar_member("a/1.json", json.dumps({"label": 1}).encode() + b" " * (2 << 20)), end),
        "too many",
    )
    yield make("deep", good, tar_member("a/1.json", b"[" * 100_000), end), "deeply"
    yield make("number", good, tar_member("a/1.cls", b"9" * 5000), end), "whole number"


def arrays(folder):
    def header(shape):
        return npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}", bytes(64))

    (folder / "huge.npy").write_bytes(header("(1099511627776, 8, 8)"))
    yield folder / "huge.npy", "holds"
    (folder / "negative.npy").write_bytes(header("(-1, 8, 8)"))
    yield folder / "negative.npy", "shape"
    yield npz(folder / "claims.npz", {"images.npy": header("(1099511627776, 8, 8)")}), "holds"
    yield npz(folder / "path.npz", {"../images.npy": header("(1, 8, 8)")}), "leads out"
    head = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({5 << 20}, 8, 8), }}")
    yield hostile.bomb(folder / "bomb.npz", "images.npy", head, 5 << 26), "bomb"


def sounds_and_films(folder):
    import soundfile

    sound = folder / "long.wav"
    soundfile.write(sound, np.zeros(4000, np.float32), 8000)
    yield patched(sound, struct.pack("<L", 8000), struct.pack("<L", 0xFFFFFF00)), ""  # both of its lengths
    (folder / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    yield folder / "list.mp4", "cannot be decoded"
    (folder / "concat.avi").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    yield folder / "concat.avi", "cannot be decoded"
    (folder / "zero.mp4").symlink_to("/dev/zero")
    yield folder / "zero.mp4", "no plain file"


KINDS = {"images": images, "clouds": clouds, "tars": tars, "arrays": arrays, "sounds_and_films": sounds_and_films}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_data_are_refused(tmp_path, kind):
    (tmp_path / kind).mkdir()
    cases = list(KINDS[kind](tmp_path / kind))
    found = hostile.opened_in_a_child([path for path, _ in cases], READ, "read(Path(path))")
    expected = "UserError" if kind in ("tars", "arrays") else "BadImage"
    wrong = {
        path.name: found[path.name] for path, says in cases
        if found[path.name][0] != expected or says not in found[path.name][1]
    }  # fmt: skip
    assert not wrong


def test_a_hostile_record_is_replaced_and_counted(tmp_path):
    """The usual way of bad records: one bomb among pictures costs one record, not the worker."""
    from mae_jax.data.pipeline import train_batches

    for i in range(40):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "7.png").write_bytes(png(1 << 16, 1 << 16))
    (tmp_path / "8.png").unlink()
    os.mkfifo(tmp_path / "8.png")
    source = make_source("folder", "train", {"path": str(tmp_path), "holdout": 0.0})
    with train_batches(source, _views(), batch=40, seed=0, max_bad=0.5) as batches:
        batch = next(batches)
    assert batch["replaced"].sum() == 2 and len(batches.problems.found) == 2


def _views():
    from tiny_runs import tiny

    from mae_jax.train.build import build

    config = tiny("method.channels=3", "augment.mean=(0.5,0.5,0.5)", "augment.std=(0.3,0.3,0.3)")
    return build(config).views(True)


def test_an_index_that_lies_is_not_believed(tmp_path):
    """An index comes with the data, so from whoever made them: what leads outside its shard is made anew."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar_member("a/1.png", png(8, 8, bytes(200))) + bytes(1024))
    good = make_source("tar", "train", {"path": str(tmp_path), "holdout": 0.0}).image(0)
    index = tmp_path / ".mae_jax-index.npz"
    for key, value in {
        "size": 1 << 60,
        "offset": -1,
        "offset ": 1 << 50,
        "first": 7,
        "extension": 9,
        "starts": 99,
    }.items():
        with np.load(index, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        name = key.strip()
        arrays[name] = np.full_like(arrays[name], value)
        np.savez(index, allow_pickle=False, **arrays)
        assert make_source("tar", "train", {"path": str(tmp_path), "holdout": 0.0}).image(0) == good
    index.write_bytes(b"PK\3\4 nothing")
    assert make_source("tar", "train", {"path": str(tmp_path), "holdout": 0.0}).image(0) == good


def test_hdf5_leads_nowhere_else(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["points"] = np.ones((2, 8, 3), np.float32)
    path = tmp_path / "a.h5"
    (tmp_path / "raw").write_bytes(bytes(1000))

    def link(file):
        file["points"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "points")

    def soft(file):
        file["other"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "points")
        file["points"] = h5py.SoftLink("/other")

    def external(file):
        file.create_dataset("points", (2, 8, 3), "f4", external=[(str(tmp_path / "raw"), 0, 192)])

    def virtual(file):
        layout = h5py.VirtualLayout((2, 8, 3), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "points", (2, 8, 3))
        file.create_virtual_dataset("points", layout)

    def huge(file):
        file.create_dataset("points", (1 << 40, 8, 3), "f4", chunks=(64, 8, 3), compression="gzip")

    def objects(file):
        file.create_dataset("points", (2,), h5py.string_dtype())

    for make in (link, soft, external, virtual, huge, objects):
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(UserError, match="'points'"):
            read_h5(path, ("points",))
    (tmp_path / "b.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with pytest.raises(UserError, match="cannot be read"):
        read_h5(tmp_path / "b.h5", ("points",))
    assert read_h5(tmp_path / "secret.h5", ("points",))["points"].shape == (2, 8, 3)


def test_pillow_starts_no_other_program():
    """EPS is PostScript, which Pillow hands to Ghostscript; a picture is what its bytes say, whatever it is called."""
    assert not {"EPS", "PDF", "PS", "WMF", "FPX", "MIC"} & set(FORMATS)
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "EPS")
    assert Image.open(io.BytesIO(data.getvalue())).format == "EPS"  # left alone, Pillow would take it
    with pytest.raises(BadImage, match="no known image format"):
        open_image(data.getvalue())
    for name in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO"):
        data = io.BytesIO()
        Image.new("RGB", (16, 16)).save(data, name)
        assert open_image(data.getvalue()).size == (16, 16)
