"""Tensors from files, without torch: .safetensors, .npz, and torch's own .pth, .pt, .bin.

Torch's files hold a pickle, which could run anything when it is loaded. Here it is read as data (core/pickles.py): a
handful of torch's names build arrays, every other class (argparse.Namespace, an optimizer, a whole module) becomes a
record. No number of a file is believed before it is checked against the file's size (docs/security.md).
"""

import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mae_jax.core import pickles, plain
from mae_jax.core.archive import STORED, Archive, is_archive
from mae_jax.core.errors import UserError
from mae_jax.core.npy import Npz
from mae_jax.core.pickles import Name, Record

STATE_DICTS = (
    "model",
    "state_dict",
    "model_state_dict",
    "module",
    "base_model",
)  # under which a training checkpoint keeps its weights
MAX_RANK = 32  # axes of a tensor
VIEWS = 4  # times the file's size that its tensors may take: some are views of one storage (tied weights)
MAX_DEPTH = 64  # of modules in modules
WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name

_SAFETENSORS = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip


def metadata(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """The header's metadata of a .safetensors file; {} where there is none, or where the file is something else."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = plain.loads(file.read(length) if 0 < length <= plain.MAX_JSON else b"").get("__metadata__", {})
            return {key: value for key, value in found.items() if isinstance(value, str)}
    except (ValueError, AttributeError):
        return {}


def read_tensors(path: str | Path, part: str | None = None) -> dict[str, np.ndarray]:
    """{name: array} of a file, in its order and dtypes.

    Of a torch file that holds more than a state dict: the entry `part`, or the one of `STATE_DICTS` that is there.

    Raises:
      UserError: no such file, none of these formats, cut off, or without tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            tensors = _safetensors(path)
        elif not is_archive(path):
            raise UserError(
                f"{path} is no .safetensors, .npz or torch file, or it is cut off. (A torch file from before 1.6 is "
                f"converted by torch.save(torch.load(f), f), on a machine where its pickle may run.)"
            )
        elif path.suffix == ".npz":
            tensors = dict(Npz(path))
        else:
            tensors = _state_dict(_torch(path), path, part)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}. Is it whole?") from error
    if not tensors:
        raise UserError(f"{path} holds no tensor.")
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


# safetensors: 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, the bytes ---------------


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    data = np.memmap(path, np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if not 0 < length <= len(data) - 8:
        raise ValueError(f"its header says that it is {length} bytes long")
    if length > plain.MAX_JSON:
        raise ValueError(f"its header has {length:,} bytes; at most {plain.MAX_JSON:,} are read")
    header = plain.loads(data[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    body, places, spans = data[8 + length :], {}, []
    for name, entry in header.items():
        dtype, shape = np.dtype(_SAFETENSORS[entry["dtype"]]), tuple(entry["shape"])
        start, end = entry["data_offsets"]
        if len(shape) > MAX_RANK or any(type(n) is not int or not 0 <= n < 2**62 for n in (*shape, start, end)):
            raise ValueError(f"tensor {name[:80]} has shape {str(shape)[:80]}, offsets {str([start, end])[:80]}")
        if not start <= end <= len(body) or end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name[:80]} {shape} lies at bytes {start} to {end} of {len(body)}")
        places[name] = dtype, shape, start, end
        spans.append((start, end))
    spans.sort()
    if any(start < before for (_, before), (start, _) in zip(spans, spans[1:])):
        raise ValueError("its tensors overlap")
    return {name: body[a:b].view(dtype).reshape(shape).copy() for name, (dtype, shape, a, b) in places.items()}


# torch: a zip of STEM/data.pkl and STEM/data/KEY, the bytes of each storage -----------------------------------------


class _Storages:
    """The arrays of a torch file's storages, each a view of the mapped file, and the tensors made of them."""

    def __init__(self, archive: Archive, root: str):
        self.archive, self.root = archive, root
        self.room = VIEWS * archive.size
        self._kept: dict[str, memoryview] = {}  # a storage is named anew for each tensor in it

    def bytes_of(self, key: str) -> memoryview:
        if key not in self._kept:
            name = f"{self.root}/data/{key}"
            if self.archive.members[name].method != STORED:
                raise ValueError(f"storage {key[:80]} is compressed, which torch.save does not do")
            self._kept[key] = self.archive.read(name)
        return self._kept[key]

    def storage(self, pid: Any) -> np.ndarray:
        """Of ("storage", type, key, device, number of elements)."""
        _, kind, key, _, count = pid
        if not isinstance(key, str) or type(count) is not int:
            raise ValueError("a storage without a name or a length")
        if not isinstance(kind, Name) or kind.module not in ("torch", "torch.storage") or kind.name not in _STORAGES:
            raise ValueError(f"storage {key[:80]} is of no known type")
        dtype, data = np.dtype(_STORAGES[kind.name]), self.bytes_of(key)
        if not 0 <= count * dtype.itemsize <= len(data):
            raise ValueError(f"storage {key[:80]} does not hold its {count} numbers")
        return np.frombuffer(data, dtype, count) if count else np.zeros(0, dtype)

    def call(self, name: Name, args: tuple) -> Any:
        """What a torch file's pickle calls: a tensor, a parameter; None for all else."""
        if name.module != "torch._utils":
            return None
        if name.name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            tensor = _rebuild(*args)
            self.room -= tensor.nbytes
            if self.room < 0:
                raise ValueError(f"its tensors are together more than {VIEWS} times as large as the file")
            return tensor
        return args[0] if name.name.startswith("_rebuild_parameter") else None


def _rebuild(storage: np.ndarray, offset: int, shape: Sequence[int], stride: Sequence[int], *_: Any) -> np.ndarray:
    """A tensor is a view of a storage; bounded, so that a crafted file can neither read past it nor blow it up."""
    shape, stride = tuple(shape), tuple(stride)
    whole = all(type(n) is int and 0 <= n < 2**62 for n in (*shape, *stride, offset))
    if not isinstance(storage, np.ndarray) or not whole or not len(shape) == len(stride) <= MAX_RANK:
        # Not what they are, which may be a tuple of tuples of tuples that no screen could hold.
        raise ValueError("a tensor of shape, strides or offset that are not as many whole numbers of at least 0")
    count = math.prod(shape)
    if not count:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
    if last >= storage.size or count > storage.size:
        raise ValueError(f"a tensor of shape {shape} and strides {stride} does not fit {storage.size} numbers")
    bytes_ = tuple(s * storage.itemsize for s in stride)
    return np.array(np.lib.stride_tricks.as_strided(storage[offset:], shape, bytes_, writeable=False))


def _torch(path: Path) -> Any:
    archive = Archive(path)
    roots = [name.removesuffix("/data.pkl") for name in archive.members if name.endswith("/data.pkl")]
    if len(roots) != 1 or any("constants.pkl" in name for name in archive.members):
        raise UserError(
            f"{path} is a zip, but not what torch.save writes (a TorchScript archive is converted by "
            f"torch.save(torch.jit.load(f).state_dict(), f))."
        )
    root = roots[0]
    if f"{root}/byteorder" in archive.members and bytes(archive.read(f"{root}/byteorder")) != b"little":
        raise ValueError("its numbers are in the byte order of another machine (big-endian)")
    size = archive.members[f"{root}/data.pkl"].size
    if size > pickles.MAX_BYTES:
        raise ValueError(f"its pickle has {size:,} bytes; at most {pickles.MAX_BYTES:,} are read")
    storages = _Storages(archive, root)
    return pickles.load(archive.read(f"{root}/data.pkl"), storages.call, storages.storage)


def _state_dict(content: Any, path: Path, part: str | None) -> dict[str, np.ndarray]:
    """The tensors of whatever a torch file holds: a state dict, a checkpoint with one inside, a whole module."""
    for _ in range(MAX_DEPTH):
        if isinstance(content, Record):
            return dict(_module_tensors(content))
        if not isinstance(content, Mapping):
            raise UserError(f"{path} holds a {type(content).__name__}, no state dict.")
        plain_keys = {str(key): x for key, x in content.items() if isinstance(key, str | int)}
        tensors = {key: x for key, x in plain_keys.items() if isinstance(x, np.ndarray)}
        if part is None and (tensors or not content):
            return tensors
        part = part or next((key for key in STATE_DICTS if key in content), "")
        if part not in content:
            there = ", ".join(key[:40] for key in list(plain_keys)[:20])
            raise UserError(f"{path} holds {there}, and none of them is known to be the weights.")
        content, part = content[part], None
    raise UserError(f"{path} holds state dicts in state dicts, without an end.")


def _module_tensors(module: Record, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of a pickled torch module, as its state_dict() would name them."""
    if depth > MAX_DEPTH:
        raise ValueError("its modules hold each other, without an end")
    state = module.state if isinstance(module.state, Mapping) else {}
    for kind in ("_parameters", "_buffers"):
        for name, value in _entries(state, kind):
            if isinstance(value, np.ndarray):
                yield prefix + name, value
    for name, child in _entries(state, "_modules"):
        if isinstance(child, Record):
            yield from _module_tensors(child, f"{prefix}{name}.", depth + 1)


def _entries(state: Mapping[Any, Any], kind: str) -> list[tuple[str, Any]]:
    found = state.get(kind)
    return [(str(k), x) for k, x in found.items() if isinstance(k, str)] if isinstance(found, Mapping) else []
