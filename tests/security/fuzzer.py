"""Mutates good files and reads them: python fuzzer.py FOLDER SECONDS SEED -> a line of JSON. See test_fuzz.py."""

import io
import json
import random
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

ROOM = 2 << 30  # bytes beyond what the imports took
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)


def mutated(data: bytes, seed: int) -> bytes:
    """A few changes to a file."""
    rng = random.Random(seed)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(out) or 1)
        # Half of the changes come where headers and directories lie.
        at = rng.choice((at, min(at, rng.randrange(64)), max(0, len(out) - 1 - rng.randrange(128))))
        kind = rng.randrange(8)
        if kind == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(NUMBERS) % (1 << 8 * width)
            out[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 3:
            del out[at : at + rng.choice((1, 4, 64, len(out)))]
        elif kind == 4:
            piece = out[at : at + rng.randrange(1, 64)]
            out[at:at] = piece * rng.choice((1, 2, 50))
        elif kind == 5:
            other = rng.randrange(len(out) or 1)
            out[at : at + 16] = out[other : other + 16]
        elif kind == 6:  # a number in text
            digits = [i for i, byte in enumerate(out) if 48 <= byte < 58][:4096]
            if digits:
                i = rng.choice(digits)
                out[i : i + 1] = rng.choice(
                    (b"-1", b"99999999999999999999", b"1e9", b"0", b"7", b'"x"', b"[[[[", b"null")
                )
        else:
            out[at : at + 4] = rng.choice(
                (b"(((((", b"cos\nsystem\n", b"R.", b"}}}}", b"\0" * 4, b"\xff" * 4, b"PK\3\4")
            )
    return bytes(out)


def good_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """{kind: (a good file, its suffix)}."""
    import tarfile

    import soundfile
    from hostile import state_dict, tensor, torch_file
    from PIL import Image
    from safetensors.numpy import save
    from test_hostile_data import tar_member, tiff

    found: dict[str, tuple[bytes, str]] = {}
    storage = {"0": np.arange(16, dtype="<f4").tobytes()}
    content = state_dict(tensor("0", 16, (4, 4), (1, 4)), tensor("0", 16, (16,), (1,)))
    found["torch"] = torch_file(folder / "g.pth", content, storage).read_bytes(), ".pth"
    arrays = {"a": np.ones((2, 3), np.float32), "images": np.ones((4, 8, 8, 3), np.uint8)}
    found["safetensors"] = save(arrays, {"format": "pt"}), ".safetensors"
    for name, write in (("npz", np.savez), ("npz_compressed", np.savez_compressed)):
        file = io.BytesIO()
        write(file, points=np.ones((9, 3)), **arrays)
        found[name] = file.getvalue(), ".npz"
    file = io.BytesIO()
    np.save(file, np.ones((8, 8, 3), np.uint8))
    found["npy"] = file.getvalue(), ".npy"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))
    for name in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000"):
        file = io.BytesIO()
        picture.save(file, name)
        found[f"image_{name}"] = file.getvalue(), ".img"
    found["image_pages"] = tiff(8, 8) + bytes(64), ".img"
    found["ply_text"] = (
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
        b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    ), ".ply"  # fmt: skip
    binary = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]]).tobytes() + b"\3" + np.int32([0, 1, 2]).tobytes()
    header = found["ply_text"][0].split(b"0 0 0")[0].replace(b"ascii", b"binary_little_endian")
    found["ply_binary"] = header + binary, ".ply"
    found["off"] = b"OFF 3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", ".off"
    found["text"] = b"0 0 0\n1 0 0\n0 1 0\n", ".txt"
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(2000) / 9).astype(np.float32), 8000, format="WAV")
    found["sound"] = file.getvalue(), ".wav"
    members = tar_member("a/1.png", found["image_PNG"][0]) + tar_member("a/1.json", b'{"label": 1}')
    long = tarfile.TarInfo("b/" + "x" * 200 + ".png")
    long.size = 9
    extended = long.tobuf(tarfile.PAX_FORMAT) + bytes(512)
    found["tar"] = members + extended + bytes(1024), ".tar"
    example = b"\x0a\x14\x0a\x12\x0a\x05label\x12\x09\x1a\x07\x0a\x05\x01\x02\x03\x04\x05"
    found["example"] = example, ".example"
    found["json"] = json.dumps({"method": {"name": "mae", "patch": [2, 2]}, "train": {"batch": 8}}).encode(), ".json"
    import pickle

    found["cifar"] = pickle.dumps({"data": np.ones((2, 3072), np.uint8), "labels": [0, 1]}, 2), ".pickle"
    return found


def reader(kind: str, suffix: str):
    """(path, bytes) -> whatever; what reads a kind of file."""
    from mae_jax.config import load, resolve
    from mae_jax.core import npy, pickles
    from mae_jax.data.audio import read as read_audio
    from mae_jax.data.decode import decode, upright_size
    from mae_jax.data.examples import read_example
    from mae_jax.data.point_files import read_cloud
    from mae_jax.data.sources import make_source
    from mae_jax.interop.files import metadata, read_tensors

    def tensors(path, data):
        metadata(path)
        read_tensors(path)
        if suffix == ".npz":
            make_source("npz", "train", {"path": str(path)}).image(0)
            read_cloud(path)

    def image(path, data):
        upright_size(data)
        decode(data, 3)
        decode(data, 1)

    def tar(path, data):
        (path.parent / ".mae_jax-index.npz").unlink(missing_ok=True)
        source = make_source("tar", "train", {"path": str(path), "holdout": 0.0})
        return [decode(source.image(i), 3) for i in range(len(source))]

    def cifar(path, data):
        content = pickles.load(data)
        return pickles.as_array(content["data"]) if isinstance(content, dict) and "data" in content else None

    readers = {
        ".img": image, ".npy": lambda path, data: (npy.array(data), decode(data, 3)), ".tar": tar,
        ".wav": lambda path, data: read_audio(data), ".example": lambda path, data: read_example(data),
        ".json": lambda path, data: resolve(load(str(path))[0]), ".pickle": cifar,
    }  # fmt: skip
    clouds = (".ply", ".off", ".txt")
    return readers.get(suffix) or ((lambda path, data: read_cloud(path)) if suffix in clouds else tensors)


def main(folder: Path, seconds: float, seed: int) -> None:
    from mae_jax.core.errors import UserError
    from mae_jax.data.examples import BadExample
    from mae_jax.data.limits import BadImage

    own = UserError, BadImage, BadExample
    files = good_files(folder)
    readers = {kind: reader(kind, suffix) for kind, (_, suffix) in files.items()}
    inner = {"cifar", "npy"}  # functions of core/, which raise ValueError for their callers to name the file
    warnings.simplefilter("ignore")  # as a worker of a run does not turn them into errors
    for kind, (data, suffix) in files.items():  # all imports, and that the good ones are good
        path = folder / f"good{suffix}"
        path.write_bytes(data)
        try:
            readers[kind](path, data)
        except own as error:
            if kind not in ("npz", "npz_compressed", "tar", "image_pages", "example"):
                raise AssertionError(f"{kind}: {error}") from error
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    tried, refused, wrong, slowest = dict.fromkeys(files, 0), 0, [], (0.0, "")
    number, begin = 0, time.process_time()
    while time.process_time() - begin < seconds or min(tried.values()) < 10:
        kind = list(files)[number % len(files)]
        data, suffix = files[kind]
        changed = mutated(data, seed * 1_000_003 + number)
        path = folder / f"x{suffix}"
        path.write_bytes(changed)
        (folder / "last").write_text(f"{kind} {seed * 1_000_003 + number}")
        number, tried[kind] = number + 1, tried[kind] + 1
        start = time.process_time()
        try:
            readers[kind](path, changed)
        except own:
            refused += 1
        except ValueError:
            refused += 1
            if kind not in inner:
                wrong.append((kind, number - 1, traceback.format_exc()[-800:]))
        except BaseException:
            wrong.append((kind, number - 1, traceback.format_exc()[-800:]))
        slowest = max(slowest, (time.process_time() - start, kind))
    report = {"tried": tried, "kinds": list(files), "refused": refused, "wrong": wrong[:5], "slowest": slowest}
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
