"""Any tree of image files, with or without class folders."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.base import Source, Spec, held_out, label_phrase, split_name

EXTENSIONS = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif", "npy")
ENDINGS = tuple(b"." + e.encode() for e in EXTENSIONS)
TEST_FOLDERS = ("val", "test", "validation")  # the first that is there


@dataclass(frozen=True)
class Folder(Spec):
    """Image files below a directory. Hidden files and directories are passed over; links are followed.

    - PATH/train together with PATH/val, PATH/test or PATH/validation are the splits. Otherwise (also when only
      PATH/train is there) the test split is a share of the files, chosen by the crc32 of their relative paths.
    - When every image lies below one of two or more first-level directories, these are the classes, sorted by
      name. Otherwise the images are unlabelled (label -1).

    Args:
        path: the directory.
        holdout: the share of files kept for testing where there is no test directory.
    """

    path: str
    holdout: float = 0.1

    def open(self, split: str) -> Source:
        split = split_name(split)
        root = _directory(self.path)
        train = root / "train" if (root / "train").is_dir() else root
        test = next((root / t for t in TEST_FOLDERS if (root / t).is_dir()), None) if train != root else None
        names = image_files(train)
        if not names:
            raise UserError(_nothing(train))
        classes = class_names(names)
        if test is not None:
            base, names = (test, image_files(test)) if split == "test" else (train, names)
        else:
            base, held = train, held_out(names, self.holdout)
            names = [name for name, h in zip(names, held, strict=True) if h == (split == "test")]
        if not names:
            held_none = split == "test" and test is None
            raise UserError(_no_holdout(base, self.holdout) if held_none else _nothing(base))
        return Files(base, names, classes, split)


class Files(Source):
    """Image files `names` (bytes, relative to `root`); a name's first directory is its class if `classes` has it.

    The names are kept as one block of bytes: a million files then pickle to workers as two buffers.
    """

    def __init__(self, root: Path, names: list[bytes], classes: tuple[str, ...], split: str):
        self.root, self.split = root, split
        self.block = b"".join(names)
        self.ends = np.cumsum([len(n) for n in names])
        number = {os.fsencode(c): i for i, c in enumerate(classes)}
        self.labels = np.array([number.get(n.split(b"/", 1)[0], -1) for n in names], np.int32)
        unknown = np.flatnonzero(self.labels < 0)
        if classes and class_names(names) and len(unknown):
            raise UserError(
                f"{os.fsdecode(names[unknown[0]])} in {root} belongs to a class that the training images do not have. "
                f"{nearest(os.fsdecode(names[unknown[0]].split(b'/', 1)[0]), classes)}"
            )
        self.classes = classes if not len(unknown) else ()
        if not self.classes:
            self.labels[:] = -1

    def name(self, i: int) -> str:
        i = range(len(self))[i]
        start = self.ends[i - 1] if i else 0
        return os.fsdecode(self.block[start : self.ends[i]])

    def where(self, i: int) -> str:
        return str(self.root / self.name(i))

    def image(self, i: int) -> bytes:
        return Path(self.where(i)).read_bytes()

    def describe(self) -> str:
        return f"folder {self.root}: {len(self)} files ({self.split}), {label_phrase(self)}"


def image_files(root: Path) -> list[bytes]:
    """Relative paths of the image files below `root`, "/" between parts, sorted by their bytes."""
    found: list[bytes] = []
    above: dict[bytes, frozenset[bytes]] = {}  # of each directory: itself and those it is reached through, resolved
    for folder, folders, files in os.walk(os.fsencode(root), followlinks=True):
        real, reached = os.path.realpath(folder), above.get(os.path.dirname(folder), frozenset())
        if real in reached:  # a link that leads back up
            folders.clear()
            continue
        above[folder] = reached | {real}
        folders[:] = sorted(f for f in folders if not f.startswith(b"."))
        prefix = os.path.relpath(folder, os.fsencode(root)).replace(os.fsencode(os.sep), b"/")
        for file in files:
            if file.lower().endswith(ENDINGS) and not file.startswith(b"."):
                found.append(file if prefix == b"." else prefix + b"/" + file)
    return sorted(found)


def class_names(names: list[bytes]) -> tuple[str, ...]:
    """The first-level directories, sorted, if every file lies in one and there are at least two; else ()."""
    first = {name.split(b"/", 1)[0] if b"/" in name else None for name in names}
    if None in first or len(first) < 2:
        return ()
    return tuple(os.fsdecode(f) for f in sorted(f for f in first if f is not None))


def _directory(path: str) -> Path:
    root = Path(path).expanduser().absolute()
    if root.is_dir():
        return root
    if root.exists():
        raise UserError(f"data.path={path} is a file. The folder source reads a directory of images; for a .npz or "
                        ".npy file use data.source='npz'.")  # fmt: skip
    beside = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
    raise UserError(f"data.path={path}: there is no such directory ({root}). {nearest(root.name, beside)}")


def _nothing(root: Path) -> str:
    """Say what was looked for and what was there."""
    there = sorted(p.name for p in root.iterdir())
    seen = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    return (
        f"There is no image below {root}. Looked in every directory for files ending in {', '.join(EXTENSIONS)} "
        f"(capitals too, hidden files left out); the directory holds {seen or 'nothing'}."
    )


def _no_holdout(root: Path, holdout: float) -> str:
    return (
        f"The test split of {root} is empty: data.holdout={holdout} keeps no image of it for testing. Give a holdout "
        f"above 0 and at least two images, or a directory {root.parent / 'val'} beside a directory 'train'."
    )
