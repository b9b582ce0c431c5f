"""Files that an attacker would send, made byte by byte; and a child process with little memory to open them in."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
ROOM = 1 << 30  # bytes of address space that a child may take beyond what its imports took
SECONDS = 60  # far more than any reading takes; a child that hangs is killed

CHILD = """
import json, resource, sys
{imports}
paths = json.load(sys.stdin)
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * resource.getpagesize() + {room}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
found = {{}}
for path in paths:
    try:
        {read}
        found[path] = ["read", ""]
    except Exception as error:
        found[path] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


def opened_in_a_child(paths: list[Path], imports: str, read: str) -> dict[str, tuple[str, str]]:
    """{name of the file: (kind of error or "read", message)} of reading each path in a process with little memory."""
    code = CHILD.format(imports=imports, read=read, room=ROOM, seconds=SECONDS)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XLA")}
    environment |= {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps([str(p) for p in paths]), text=True, capture_output=True,
        env=environment, timeout=4 * SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return {Path(path).name: tuple(found) for path, found in json.loads(done.stdout.splitlines()[-1]).items()}


def torch_file(path: Path, content: bytes, storages: dict[str, bytes] | None = None, **more: bytes) -> Path:
    """What torch.save's zip looks like, with any pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
        for key, data in (storages or {}).items():
            archive.writestr(f"a/data/{key}", data)
        for name, data in more.items():
            archive.writestr(f"a/{name}", data)
    return path


def storage(key: str, kind: str, count: int) -> bytes:
    """Opcodes that put a storage on the stack."""
    text = b"".join(b"X" + len(t).to_bytes(4, "little") + t.encode() for t in ("storage",))
    name = b"X" + len(key).to_bytes(4, "little") + key.encode()
    return (
        b"(" + text + b"ctorch\n" + kind.encode() + b"\n" + name + b"X\x03\0\0\0cpu" + integer(count) + b"tQ"
    )  # fmt: skip


def integer(n: int) -> bytes:
    return pickle.dumps(n, 2)[2:-1]


def tensor(key: str, count: int, shape: tuple, stride: tuple, offset: int = 0, kind: str = "FloatStorage") -> bytes:
    """Opcodes that put a tensor on the stack."""
    sizes = b"".join(b"(" + b"".join(map(integer, t)) + b"t" for t in (shape, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(key, kind, count) + integer(offset) + sizes + b"\x89NtR"


def state_dict(*tensors: bytes) -> bytes:
    """A pickle of {"w0": tensor, ...}."""
    items = b"".join(b"X\x02\0\0\0w%d" % i + t for i, t in enumerate(tensors))
    return b"\x80\x02}(" + items + b"u."


def safetensors(path: Path, header: Any, body: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def npy(header: str, body: bytes = b"", version: int = 1) -> bytes:
    """A .npy with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + body


def npz(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def patched(path: Path, old: bytes, new: bytes, count: int = -1) -> Path:
    """The file with some of its bytes replaced."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, count))
    return path


def bomb(path: Path, name: str, head: bytes, zeros: int) -> Path:
    """A zip whose member unpacks to `head` and very many zeros, written without holding them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        file.write(head)
        block = bytes(1 << 22)
        for _ in range(zeros >> 22):
            file.write(block)
    return path


def good(path: Path) -> Path:
    np.savez(path, x=np.ones(2))
    return path
