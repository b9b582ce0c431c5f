"""Images in one .npz or .npy file."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core import npy
from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.base import Arrays, Source, Spec, held_out, split_name

# (images, labels) under which the arrays are looked for, in this order
WHOLE = [("images", "labels"), ("image", "label"), ("x", "y"), ("data", "labels")]
TRAIN = [("x_train", "y_train"), ("train_images", "train_labels"), ("images_train", "labels_train")]
TEST = [("x_test", "y_test"), ("test_images", "test_labels"), ("images_test", "labels_test"),
        ("x_val", "y_val"), ("val_images", "val_labels")]  # fmt: skip
DTYPES = ("uint8", "uint16", "float32", "float64", "float16", "bool")


@dataclass(frozen=True)
class Npz(Spec):
    """Images [n, h, w] or [n, h, w, c] of uint8, uint16 or float, with or without integer labels [n].

    - images + labels (also image + label, x + y), from which a share is held out for testing; or the two splits
      as x_train, y_train, x_test, y_test (Keras) or train_images, train_labels, test_images, ... (MedMNIST).
    - A .npy file is images without labels.
    - A .npy, and an array that np.savez stored uncompressed, is mapped, not read. What np.savez_compressed stored is
      held in memory whole, by every worker process for itself.

    Args:
        path: the file.
        holdout: the share of images kept for testing where there are no test arrays.
    """

    path: str
    holdout: float = 0.1

    def open(self, split: str) -> Source:
        split = split_name(split)
        path = Path(self.path).expanduser().absolute()
        keys = _keys(path)
        train, test = _find(keys, TRAIN), _find(keys, TEST)
        if train and test:
            images, labels = test if split == "test" else train
            return ArrayFile(path, images, labels, self._classes(path, train[1], test[1]))
        pair = train or _find(keys, WHOLE)
        if pair is None:
            raise UserError(
                f"{path} holds the arrays {', '.join(keys) or 'nothing'}: none has a name that the npz source looks "
                "for. Save images= and labels= (np.savez(path, images=..., labels=...)), or x_train=, y_train=, "
                "x_test=, y_test=."
            )
        images, labels = pair
        lazy = ArrayFile(path, images, labels, self._classes(path, labels))
        held = held_out([str(i).encode() for i in range(len(lazy))], self.holdout)
        return lazy.only(np.flatnonzero(held == (split == "test")), self.holdout)

    @staticmethod
    def _classes(path: Path, *keys: str | None) -> tuple[str, ...]:
        """Names "0", "1", ... up to the largest label of all splits, so that the splits agree; () if unlabelled."""
        if None in keys:
            return ()
        return tuple(str(c) for c in range(1 + max(int(_labels(path, str(k)).max(initial=0)) for k in keys)))


class ArrayFile(Arrays):
    """`Arrays` over a file, which every process that holds a copy opens for itself on first use."""

    def __init__(self, path: Path, key: str, label_key: str | None, classes: tuple[str, ...]):
        self.path, self.key = path, key
        images = open_array(path, key)
        n = len(images)
        labels = np.full(n, -1, np.int32) if label_key is None else _labels(path, label_key)
        if len(labels) != n:
            raise UserError(f"{path} holds {n} images in '{key}' and {len(labels)} labels in '{label_key}'.")
        super().__init__(images, labels, f"npz {path.name}", classes)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "images"}

    def __getattr__(self, name: str) -> Any:
        if name == "images":  # a copy that came through pickle
            self.images = open_array(self.path, self.key)
            return self.images
        raise AttributeError(name)

    def only(self, numbers: np.ndarray, holdout: float) -> "ArrayFile":
        """The records `numbers` alone."""
        if not len(numbers):
            raise UserError(f"A split of {self.path} is empty: {len(self)} images, data.holdout={holdout}.")
        self.labels, self.numbers = self.labels[numbers], numbers
        return self

    def image(self, i: int) -> np.ndarray:
        image = np.array(self.images[self.numbers[i]])
        if image.dtype.kind == "f":
            image = image.astype(np.float32)
        elif image.dtype.kind == "b":
            image = image * np.uint8(255)
        return image if image.ndim == 3 else image[..., None]

    def where(self, i: int) -> str:
        return f"{self.path} {self.key}[{self.numbers[i]}]"

    def describe(self) -> str:
        shape = "x".join(map(str, self.images.shape[1:]))
        labelled = f"{len(self.classes)} classes" if self.classes else "unlabelled"
        note = "" if isinstance(self.images, np.memmap) else (
            f" (compressed: each process holds {self.images.nbytes / 1e6:.0f} MB; np.savez's file would be mapped)"
        )  # fmt: skip
        return f"npz {self.path}: {len(self)} images {shape} {self.images.dtype} in '{self.key}', {labelled}{note}"


def open_array(path: Path, key: str) -> np.ndarray:
    """The array of images, checked: mapped where the file allows it, else read."""
    array = whole(path) if path.suffix == ".npy" else member(path, key)
    if array.ndim not in (3, 4) or array.dtype.name not in DTYPES or not len(array):
        raise UserError(
            f"'{key}' in {path} has shape {array.shape} and dtype {array.dtype}: images [n, h, w] or [n, h, w, c] of "
            "uint8 (0..255), uint16 (0..65535), float or bool expected."
        )
    return array


def whole(path: Path) -> np.ndarray:
    """The array of a .npy, mapped. Raises UserError."""
    try:
        return npy.mapped(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a .npy: {error}.") from error


def member(path: Path, key: str) -> np.ndarray:
    """One array of a .npz: mapped where it is stored uncompressed, else read. Raises UserError."""
    try:
        return npy.Npz(path).mapped(key)
    except (OSError, ValueError, zlib.error) as error:
        raise UserError(f"{path} cannot be read as a .npz of plain arrays: {error}.") from error


def members(path: Path) -> list[str]:
    """The names of a .npz's arrays. Raises UserError."""
    try:
        return list(npy.Npz(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole .npz archive: {error}.") from error


def _labels(path: Path, key: str) -> np.ndarray:
    """Integer labels [n] of at least 0; [n, 1] is accepted."""
    labels = member(path, key)
    flat = labels.reshape(len(labels), -1)
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and np.array_equal(flat, np.round(flat)))
    if flat.shape[1:] != (1,) or not whole or flat.min(initial=0) < 0:
        raise UserError(
            f"The labels '{key}' in {path} have shape {labels.shape} and dtype {labels.dtype}: whole numbers [n] of at "
            "least 0 expected, one for each image."
        )
    return flat[:, 0].astype(np.int32)


def _keys(path: Path) -> list[str]:
    if path.suffix not in (".npz", ".npy"):
        raise UserError(f"data.path={path} is not a .npz or .npy file. For a directory of images use "
                        "data.source='folder'.")  # fmt: skip
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"data.path={path}: there is no such file. {nearest(path.name, beside)}")
    if path.suffix == ".npy":
        return ["images"]
    return members(path)


def _find(keys: list[str], names: list[tuple[str, str]]) -> tuple[str, str | None] | None:
    """The first pair whose images are there, with its labels if these are; pairs with labels go first."""
    whole: list[tuple[str, str | None]] = [(x, y) for x, y in names if x in keys and y in keys]
    alone: list[tuple[str, str | None]] = [(x, None) for x, _ in names if x in keys]
    return next(iter(whole + alone), None)
