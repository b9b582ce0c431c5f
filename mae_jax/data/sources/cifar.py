"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the files that their author published."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mae_jax.core import pickles
from mae_jax.core.errors import UserError
from mae_jax.data.limits import BadImage, read_file
from mae_jax.data.sources.base import Arrays, Source, Spec, split_name
from mae_jax.data.sources.raw import Layout, RawImages, check_labels, find_folder, read_names, rows

SHAPE, AXES = (3, 32, 32), (1, 2, 0)  # channel planes, each row by row
BATCH_BYTES = 256 << 20  # of a file of the python version; CIFAR-100's largest has 155 MB
COARSE = 20  # superclasses of CIFAR-100


class Version(NamedTuple):
    """The files of one published version of the data, "binary" or "python".

    Attributes: folder: that the archive unpacks to. names: the file that holds class names.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str


@dataclass(frozen=True)
class Cifar10(Spec):
    """CIFAR-10: 50,000 images of 32 x 32 for training and 10,000 for testing, ten classes.

    The binary version (cifar-10-batches-bin: data_batch_1.bin ... test_batch.bin) is mapped. The python version
    (cifar-10-batches-py) is held in memory; its pickles are read as data (core/pickles.py).

    Args:
        path: the unpacked folder, or the one that it lies in.
    """

    path: str

    binary: ClassVar[Version] = Version(
        "cifar-10-batches-bin", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",),
        "batches.meta.txt",
    )  # fmt: skip
    python: ClassVar[Version] = Version(
        "cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",), "batches.meta"
    )

    def open(self, split: str) -> Source:
        return _open(self, "cifar10", split, before=1, label=0, count=10, key="labels", names_key="label_names")


@dataclass(frozen=True)
class Cifar100(Spec):
    """CIFAR-100: 50,000 images of 32 x 32 for training and 10,000 for testing, 100 classes in 20 superclasses.

    The binary version (cifar-100-binary: train.bin, test.bin) is mapped. The python version (cifar-100-python) is
    held in memory; its pickles are read as data (core/pickles.py).

    Args:
        path: the unpacked folder, or the one that it lies in.
        labels: "fine" (100 classes) or "coarse" (20).
    """

    path: str
    labels: str = "fine"

    binary: ClassVar[Version] = Version("cifar-100-binary", ("train.bin",), ("test.bin",), "{kind}_label_names.txt")
    python: ClassVar[Version] = Version("cifar-100-python", ("train",), ("test",), "meta")

    def open(self, split: str) -> Source:
        if self.labels not in ("fine", "coarse"):
            raise UserError(f"data.labels='{self.labels}': CIFAR-100 has 'fine' labels (100 classes) and 'coarse' "
                            "ones (20).")  # fmt: skip
        coarse = self.labels == "coarse"
        return _open(
            self, "cifar100", split, before=2, label=0 if coarse else 1, count=COARSE if coarse else 100,
            key=f"{self.labels}_labels", names_key=f"{self.labels}_label_names", kind=self.labels,
        )  # fmt: skip


def _open(
    spec: Any, title: str, split: str, *, before: int, label: int, count: int, key: str, names_key: str, kind: str = ""
) -> Source:
    """The split from whichever version is there; of both, the binary one.

    Args:
        before: label bytes of a binary record, of which byte `label` counts.
        key: of the labels in a python batch; names_key: of the class names in its meta file.
    """
    split = split_name(split)
    binary, python = spec.binary, spec.python
    folder = find_folder(
        spec.path, [binary.folder, python.folder], [binary.test[0], python.test[0]],
        f"Get the binary version of {title.upper().replace('CIFAR', 'CIFAR-')} from "
        "https://www.cs.toronto.edu/~kriz/cifar.html, unpack it, and set data.path to the folder.",
    )  # fmt: skip
    as_binary = (folder / binary.test[0]).is_file()
    files = [folder / name for name in getattr(binary if as_binary else python, split)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is not there, though other files of {title} are. Unpack the archive again.")
    title = f"{title} {split}"
    if as_binary:
        layout = Layout(before, SHAPE, AXES)
        labels = [check_labels(np.array(rows(f, layout)[:, label]), count, f) for f in files]
        names = read_names(folder / binary.names.format(kind=kind), count)
        return RawImages(files, layout, np.concatenate(labels), title, names)
    batches = [_batch(file, key, count) for file in files]
    pixels = np.concatenate([b[0] for b in batches]).reshape(-1, *SHAPE).transpose(0, *(a + 1 for a in AXES))
    names = _names(folder / python.names, names_key, count)
    return Arrays(np.ascontiguousarray(pixels), np.concatenate([b[1] for b in batches]), title, names)


def _batch(path: Path, key: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(pixels uint8 [n, 3072], labels [n]) of a file of the python version."""
    batch = _unpickle(path)
    pixels, labels = batch.get("data"), batch.get(key)
    try:
        pixels = pickles.as_array(pixels)
    except ValueError as error:
        raise UserError(f"{path} has no 'data' of uint8 [n, 3072] ({error}): it is no batch of CIFAR.") from error
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise UserError(f"{path} has no 'data' of uint8 [n, 3072]: it is no batch of CIFAR.")
    if not isinstance(labels, Sequence) or len(labels) != len(pixels):
        raise UserError(f"{path} holds {len(pixels)} images and no '{key}' of that length.")
    if not all(type(label) is int and abs(label) < 2**31 for label in labels):
        raise UserError(f"{path} holds labels that are no whole numbers: it is no batch of CIFAR.")
    return pixels, check_labels(np.asarray(labels, np.int64), count, path)


def _names(path: Path, key: str, count: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(c) for c in range(count))
    names = _unpickle(path).get(key, [str(c) for c in range(count)])
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} should hold the {count} names of classes in '{key}': it is damaged, or another file.")
    return tuple(names)


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        content = pickles.load(read_file(path, BATCH_BYTES))
    except (BadImage, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}). It is cut off, or no file of "
                        "CIFAR's python version; the binary version needs no pickle.") from error  # fmt: skip
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: it is no file of CIFAR's python version.")
    return content
