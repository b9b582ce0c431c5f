"""Any tree of image files, with or without class folders."""

import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.limits import read_file
from mae_jax.data.sources.base import Source, Spec, held_out, label_phrase, split_name
from mae_jax.data.sources.manifest import read_manifest
from mae_jax.data.sources.names import Names

EXTENSIONS = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif", "npy")
ENDINGS = tuple(b"." + e.encode() for e in EXTENSIONS)
IMAGES = "image", f"files ending in {', '.join(EXTENSIONS)} (capitals too, hidden files left out)"
TEST_FOLDERS = ("val", "test", "validation")  # the first that is there


@dataclass(frozen=True)
class Folder(Spec):
    """Image files below a directory. Hidden files and directories are passed over; links are followed.

    - PATH/train together with PATH/val, PATH/test or PATH/validation are the splits. Otherwise (also when only
      PATH/train is there) the test split is a share of the files, chosen by the crc32 of their relative paths.
    - When every image lies below one of two or more first-level directories, these are the classes, sorted by
      name. Otherwise the images are unlabelled (label -1).
    - With a manifest, its rows are the files, and no directory is searched.

    Args:
        path: the directory.
        holdout: the share of files kept for testing where there is no test directory.
        manifest: a .csv (UTF-8, with a header) or .parquet file with the columns path (relative to `path`) and, if
            there are any, label (class names, or whole numbers) and split (train, val, validation or test). The
            first 100 files are looked for at once; others that are missing count as unreadable images.
    """

    path: str
    holdout: float = 0.1
    manifest: str | None = None

    def open(self, split: str) -> Source:
        split = split_name(split)
        root = self.directory()
        if self.manifest:
            names, labels, classes = read_manifest(self.manifest, root, split, self.holdout)
            return Files(root, names, labels, classes, split)
        return Files(*split_tree(root, split, self.holdout, image_files, IMAGES), split)

    def directory(self) -> Path:
        """The directory `path`. Raises UserError where there is none."""
        return find_directory(self.path, "The folder source reads a directory of images; for a .npz or .npy file use "
                              "data.source='npz'.")  # fmt: skip


def split_tree(
    root: Path, split: str, holdout: float, find: Callable[[Path], Iterator[bytes]], what: tuple[str, str]
) -> tuple[Path, Names, np.ndarray, tuple[str, ...]]:
    """(base, names relative to it, labels int32 [n], classes) of a split of a tree, by the rules of `Folder`.

    Args:
        find: the names below a directory, in the order of their bytes.
        what: what is looked for, and by what it is told, for messages.
    """
    train = train_folder(root)
    test = next((root / t for t in TEST_FOLDERS if (root / t).is_dir()), None) if train != root else None
    names = Names.of(find(train))
    if not len(names):
        raise UserError(_nothing(train, what))
    classes = class_names(names)
    if test is not None:
        base, names = (test, Names.of(find(test))) if split == "test" else (train, names)
    else:
        base, names = train, names.take(held_out(names, holdout) == (split == "test"))
    if not len(names):
        held_none = split == "test" and test is None
        raise UserError(_no_holdout(base, holdout) if held_none else _nothing(base, what))
    return base, names, class_labels(names, classes, base), classes


SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def train_folder(root: Path) -> Path:
    """`root`/train, or `root` itself where there are no splits.

    Raises:
      UserError: its folders look like splits under other names: read as classes, they would have a network train on its
        validation data.
    """
    if (root / "train").is_dir():
        return root / "train"
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) > 1 and {name.lower() for name in folders} <= SPLITS:
        raise UserError(
            f"{root} holds {', '.join(folders)}, which look like splits and would be read as classes: rename them to "
            f"train and one of {', '.join(TEST_FOLDERS)}, or give data.path the one to train on."
        )
    return root


class Files(Source):
    """Image files `names` (relative to `root`) with `labels` int32 [n]; if any is -1, all are unlabelled."""

    def __init__(self, root: Path, names: Names, labels: np.ndarray, classes: tuple[str, ...], split: str):
        self.root, self.names, self.split = root, names, split
        known = bool(classes) and not (labels < 0).any()
        self.labels = labels if known else np.full(len(names), -1, np.int32)
        self.classes = classes if known else ()

    def name(self, i: int) -> str:
        return os.fsdecode(self.names[i])

    def where(self, i: int) -> str:
        return os.path.join(self.root, self.name(i))

    def image(self, i: int) -> bytes:
        return read_file(self.where(i))

    def describe(self) -> str:
        return f"folder {self.root}: {len(self)} files ({self.split}), {label_phrase(self)}"


def image_files(root: Path) -> Iterator[bytes]:
    """`files_below` of images."""
    return files_below(root, ENDINGS)


def files_below(root: Path, endings: tuple[bytes, ...], whole: tuple[bytes, ...] = ()) -> Iterator[bytes]:
    """Relative paths of the files with these endings, "/" between parts, in the order of their bytes.

    A directory sorts as its name and "/", so that walking depth first gives this order without holding all paths.

    Args:
        whole: a directory that holds files with these endings, and none with the others, counts as a file itself, and
            what is below it does not count.
    """
    return _walk(os.fsencode(root), b"", (), endings, whole)


def _walk(
    folder: bytes,
    prefix: bytes,
    above: tuple[tuple[int, int], ...],
    endings: tuple[bytes, ...],
    whole: tuple[bytes, ...],
) -> Iterator[bytes]:
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link that leads back up
            return
        found, frames = [], False
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                if entry.is_dir():
                    found.append(entry.name + b"/")
                elif entry.name.lower().endswith(endings):
                    found.append(entry.name)
                else:
                    frames = frames or entry.name.lower().endswith(whole)
    except PermissionError as error:
        raise UserError(f"The directory {os.fsdecode(folder)} cannot be read ({error.strerror}). Make it readable, or "
                        "give its name a leading dot to leave it out.") from error  # fmt: skip
    if frames and prefix and all(name.endswith(b"/") for name in found):
        yield prefix[:-1]
        return
    for name in sorted(found):
        if name.endswith(b"/"):
            yield from _walk(os.path.join(folder, name[:-1]), prefix + name, (*above, here), endings, whole)
        else:
            yield prefix + name


def class_names(names: Names) -> tuple[str, ...]:
    """The first-level directories, sorted, if every file lies in one and there are at least two; else ()."""
    first = set()
    for name in names:
        head, slash, _ = name.partition(b"/")
        if not slash:
            return ()
        first.add(head)
    return tuple(os.fsdecode(f) for f in sorted(first)) if len(first) > 1 else ()


def class_labels(names: Names, classes: tuple[str, ...], root: Path) -> np.ndarray:
    """The number of each name's first directory in `classes`, -1 where it is none; int32 [n].

    Raises: UserError where `names` have classes of their own and one of these is unknown.
    """
    number = {os.fsencode(c): i for i, c in enumerate(classes)}
    labels = np.frombuffer(array("i", (number.get(name.partition(b"/")[0], -1) for name in names)), np.int32)
    unknown = np.flatnonzero(labels < 0)
    if classes and len(unknown) and class_names(names):
        name = os.fsdecode(names[int(unknown[0])])
        raise UserError(
            f"{name} in {root} belongs to a class that the training images do not have. "
            f"{nearest(name.split('/', 1)[0], classes)}"
        )
    return labels


def find_directory(path: str, instead: str) -> Path:
    """data.path, a directory. Raises UserError; `instead` is what to do where it is a file."""
    root = Path(path).expanduser().absolute()
    if root.is_dir():
        return root
    if root.exists():
        raise UserError(f"data.path={path} is a file. {instead}")
    beside = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
    raise UserError(f"data.path={path}: there is no such directory ({root}). {nearest(root.name, beside)}")


def _nothing(root: Path, what: tuple[str, str]) -> str:
    """Say what was looked for and what was there."""
    there = sorted(p.name for p in root.iterdir())
    seen = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    return (
        f"There is no {what[0]} below {root}. Looked in every directory for {what[1]}; the directory holds "
        f"{seen or 'nothing'}."
    )


def _no_holdout(root: Path, holdout: float) -> str:
    return (
        f"The test split of {root} is empty: data.holdout={holdout} keeps nothing of it for testing. Give a holdout "
        f"above 0 and at least two files, or a directory {root.parent / 'val'} beside a directory 'train'."
    )
