"""Images with a class for each pixel: two folders whose files have the same names (ADE20K, Pascal VOC)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.annotation import IGNORE, MAX_CLASSES, Annotation
from mae_jax.data.sources.base import Source, Spec, label_phrase, split_name
from mae_jax.data.sources.folder import image_files
from mae_jax.data.sources.names import Names

FOLDERS = {"train": ("training", "train"), "test": ("validation", "val", "test")}  # the first that is there


@dataclass(frozen=True)
class Segmentation(Spec):
    """Image files and annotation files of the same names but for their endings, in two folders.

    An annotation is a grey or palette file that holds the number of a class per pixel.

    - ADE20K: `images/training`, `annotations/training` and the same with `validation`; reduce_zero_label.
    - Pascal VOC: images="JPEGImages", annotations="SegmentationClass", lists="ImageSets/Segmentation/{split}.txt".

    Args:
        path: the directory that holds both.
        classes: their number, their names, or a text file with a name per line (a table as ADE20K's objectInfo150.txt:
            the last column).
        images, annotations: the folders below `path`. Below each, training (or train) and validation (val, test)
            are the splits, unless there are `lists`.
        lists: text files below `path` that list the names of each split, with {split} for train and val; "": none.
        reduce_zero_label: 0 in the files means no class, and class c is stored as c + 1.
        ignore: the value of pixels without a class.
    """

    path: str
    classes: Any
    images: str = "images"
    annotations: str = "annotations"
    lists: str = ""
    reduce_zero_label: bool = False
    ignore: int = IGNORE

    def open(self, split: str) -> Source:
        split = split_name(split)
        root = Path(self.path).expanduser().absolute()
        names = class_names(self.classes, root)
        roots = [_folder(root, self.images, "images"), _folder(root, self.annotations, "annotations")]
        listed = None
        if self.lists:
            listed = _listed(root, self.lists, {"train": "train", "test": "val"}[split])
        else:
            roots = [_split_folder(folder, split) for folder in roots]
        images, annotations = (_by_stem(folder) for folder in roots)
        stems = sorted(images) if listed is None else listed
        _check_pairs(stems, images, annotations, roots, extra=listed is None)
        files = [Names.of(os.fsencode(found[stem]) for stem in stems) for found in (images, annotations)]
        return Scenes(roots, files, names, split, self.ignore, self.reduce_zero_label)


class Scenes(Source):
    """Pairs of files: `files[0][i]` below `roots[0]` is image i, the same of 1 its annotation."""

    def __init__(
        self, roots: Sequence[Path], files: Sequence[Names], segments: tuple[str, ...], split: str, ignore: int,
        reduce_zero: bool,
    ):  # fmt: skip
        self.roots, self.files, self.segments = tuple(roots), tuple(files), segments
        self.split, self.ignore, self.reduce_zero = split, ignore, reduce_zero
        self.labels = np.full(len(files[0]), -1, np.int32)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image, annotation = (self._path(which, i) for which in (0, 1))
        return {
            "image": image.read_bytes(),
            "segmentation": Annotation(
                annotation.read_bytes(), str(annotation), len(self.segments), self.ignore, self.reduce_zero
            ),
            "label": -1,
        }

    def _path(self, which: int, i: int) -> Path:
        return self.roots[which] / os.fsdecode(self.files[which][i])

    def name(self, i: int) -> str:
        return os.fsdecode(self.files[0][i])

    def where(self, i: int) -> str:
        return str(self._path(0, i))

    def describe(self) -> str:
        return f"segmentation {self.roots[0]}: {len(self)} images ({self.split}), {label_phrase(self)}"


def class_names(classes: Any, root: Path) -> tuple[str, ...]:
    """Names from a number, a list, or a file (its path as given, or below `root`)."""
    if isinstance(classes, str) and not classes.isdigit():
        path = next((p for p in (Path(classes).expanduser(), root / classes) if p.is_file()), None)
        if path is None:
            raise UserError(f"data.classes={classes!r}: a number of classes, their names, or a text file with a name "
                            f"per line expected; there is no such file.")  # fmt: skip
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        table = bool(lines) and lines[0].split("\t")[0].strip() == "Idx"  # ADE20K's objectInfo150.txt
        names = tuple(line.split("\t")[-1].strip() for line in lines[int(table) :])
    elif isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes):
        names = tuple(classes)
    elif isinstance(classes, int | str) and not isinstance(classes, bool):
        names = tuple(str(c) for c in range(int(classes)))
    else:
        names = ()
    if not 2 <= len(names) <= MAX_CLASSES:
        raise UserError(f"data.classes={classes!r} gives {len(names)} classes: 2 to {MAX_CLASSES} expected.")
    return names


def _folder(root: Path, name: str, key: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        beside = [p.name for p in root.iterdir()] if root.is_dir() else []
        raise UserError(f"data.{key}={name!r}: there is no directory {folder}. {nearest(name, beside)}")
    return folder


def _split_folder(folder: Path, split: str) -> Path:
    found = next((folder / name for name in FOLDERS[split] if (folder / name).is_dir()), None)
    if found is None:
        raise UserError(f"{folder} has no directory {' or '.join(FOLDERS[split])} with the files of the split "
                        f"'{split}'. Make one, or name them in files by data.lists.")  # fmt: skip
    return found


def _listed(root: Path, pattern: str, split: str) -> list[str]:
    path = root / pattern.replace("{split}", split)
    if "{split}" not in pattern or not path.is_file():
        raise UserError(f"data.lists={pattern!r} names no file {path}: a path below data.path with {{split}} in the "
                        f"place of train and val expected.")  # fmt: skip
    stems = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    if not stems:
        raise UserError(f"{path} lists nothing.")
    return stems


def _by_stem(folder: Path) -> dict[str, str]:
    """{path without its ending: path}, relative to `folder`."""
    found: dict[str, str] = {}
    for name in map(os.fsdecode, image_files(folder)):
        stem = os.path.splitext(name)[0]
        if stem in found:
            raise UserError(f"{folder} holds both {found[stem]} and {name}, which differ in their endings alone, so "
                            f"that pairs cannot be told. Remove one.")  # fmt: skip
        found[stem] = name
    return found


def _check_pairs(stems: Sequence[str], images: dict, annotations: dict, roots: Sequence[Path], extra: bool) -> None:
    """Raise UserError where one of a pair is missing."""
    lone = [f"no image in {roots[0]} for '{s}'" for s in stems if s not in images]
    lone += [f"no annotation in {roots[1]} for '{images[s]}'" for s in stems if s in images and s not in annotations]
    if extra:
        lone += [f"no image in {roots[0]} for '{annotations[s]}'" for s in sorted(annotations) if s not in images]
    if lone or not stems:
        first = "; ".join(lone[:5]) if lone else f"{roots[0]} holds no image files"
        raise UserError(f"Images and annotations are paired by their names without endings; {len(lone)} have no "
                        f"partner: {first}{', ...' if len(lone) > 5 else ''}. Add or remove files.")  # fmt: skip
