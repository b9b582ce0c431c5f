"""Tensors from files, without torch: .safetensors, .npz, and torch's own .pth, .pt, .bin.

Torch's files hold a pickle, which could run anything when it is loaded. Ours is read by an unpickler that imports
nothing: a handful of torch's names build arrays, every other class (argparse.Namespace, an optimizer, a whole module)
becomes an inert record.
"""

import json
import math
import os
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mae_jax.core.errors import UserError

STATE_DICTS = (
    "model",
    "state_dict",
    "model_state_dict",
    "module",
    "base_model",
)  # under which a training checkpoint keeps its weights
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
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= 100_000_000:
            return {}
        try:
            return json.loads(file.read(length)).get("__metadata__", {})
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
        elif not zipfile.is_zipfile(path):
            raise UserError(
                f"{path} is no .safetensors, .npz or torch file, or it is cut off. (A torch file from before 1.6 is "
                f"converted by torch.save(torch.load(f), f).)"
            )
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                tensors = {name: file[name] for name in file.files}
        else:
            tensors = _state_dict(_torch(path), path, part)
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, AttributeError, pickle.UnpicklingError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
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
    header = json.loads(data[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    body, tensors = data[8 + length :], {}
    for name, entry in header.items():
        dtype, shape = np.dtype(_SAFETENSORS[entry["dtype"]]), tuple(entry["shape"])
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= len(body) or end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name} {shape} lies at bytes {start} to {end} of {len(body)}")
        tensors[name] = body[start:end].view(dtype).reshape(shape).copy()
    return tensors


# torch: a zip of STEM/data.pkl and STEM/data/KEY, the bytes of each storage -----------------------------------------


class _Inert:
    """Stands for an object of any class: keeps its state, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return self

    def __hash__(self) -> int:
        return id(self)

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass


class _Storage:
    """A storage's element type, as pickles name it."""

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)


class _Unpickler(pickle.Unpickler):
    """Reads data.pkl; `archive` and `root` are the zip and the folder in it."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(file, encoding="latin1")
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return lambda data, *_: data
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Storage(_STORAGES[name])
        return _Inert

    def persistent_load(self, pid: Any) -> np.ndarray:
        """A storage: ("storage", type, key, device, number of elements)."""
        _, kind, key, _, count = pid
        info = self.archive.getinfo(f"{self.root}/data/{key}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size < count * kind.dtype.itemsize:
            raise ValueError(f"storage {key} does not hold its {count} numbers")
        return np.frombuffer(self.archive.read(info), kind.dtype, count)


def _rebuild(storage: np.ndarray, offset: int, shape: Sequence[int], stride: Sequence[int], *_: Any) -> np.ndarray:
    """A tensor is a view of a storage; bounded, so that a crafted file can neither read past it nor blow it up."""
    shape, stride = tuple(shape), tuple(stride)
    count = math.prod(shape)
    if len(shape) != len(stride) or any(n < 0 for n in (*shape, *stride, offset)):
        raise ValueError(f"a tensor of shape {shape}, strides {stride}, offset {offset}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
    if count and (last >= storage.size or count > storage.size):
        raise ValueError(f"a tensor of shape {shape} and strides {stride} does not fit {storage.size} numbers")
    bytes_ = tuple(s * storage.itemsize for s in stride)
    return np.array(np.lib.stride_tricks.as_strided(storage[offset:], shape, bytes_, writeable=False))


def _torch(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1 or any("constants.pkl" in name for name in archive.namelist()):
            raise UserError(
                f"{path} is a zip, but not what torch.save writes (a TorchScript archive is converted by "
                f"torch.save(torch.jit.load(f).state_dict(), f))."
            )
        with archive.open(f"{roots[0]}/data.pkl") as file:
            return _Unpickler(file, archive, roots[0]).load()


def _state_dict(content: Any, path: Path, part: str | None) -> dict[str, np.ndarray]:
    """The tensors of whatever a torch file holds: a state dict, a checkpoint with one inside, a whole module."""
    if isinstance(content, _Inert):
        return dict(_module_tensors(content))
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, no state dict.")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, np.ndarray)}
    if part is None and (tensors or not content):
        return tensors
    part = part or next((key for key in STATE_DICTS if key in content), "")
    if part not in content:
        raise UserError(f"{path} holds {', '.join(map(str, content))}, and none of them is known to be the weights.")
    return _state_dict(content[part], path, None)


def _module_tensors(module: _Inert, prefix: str = ""):
    """(name, tensor) of a pickled torch module, as its state_dict() would name them."""
    for kind in ("_parameters", "_buffers"):
        for name, value in getattr(module, kind, {}).items():
            if isinstance(value, np.ndarray):
                yield prefix + name, value
    for name, child in getattr(module, "_modules", {}).items():
        if isinstance(child, _Inert):
            yield from _module_tensors(child, f"{prefix}{name}.")
