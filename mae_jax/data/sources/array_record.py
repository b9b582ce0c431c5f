"""Shards of array_record without any description beside them."""

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.examples import BadExample, feature_keys, find_feature
from mae_jax.data.sources.base import SPLITS, Source, Spec, held_out, split_name
from mae_jax.data.sources.record_index import index_shards
from mae_jax.data.sources.records import MAGIC, ImageField, Records, Shards, label_classes

NAMES = re.compile(r"array_?record", re.IGNORECASE)  # in the names of files that a directory is searched for
SPLIT_WORD = re.compile(r"(?:^|[-_./])(train|test|validation|val)(?=[-_./\d]|$)")


@dataclass(frozen=True)
class ArrayRecord(Spec):
    """array_record files whose records are encoded images, or tf.train.Examples (told by the first record).

    - Files with train, test, val or validation as a word of their path below `path` are the splits. Where none has
      such a word, a share of the records is held out for testing, chosen by their numbers.
    - A directory with dataset_info.json is better read by the tfds source.

    Args:
        path: a file, a directory (files with array_record in their names, at any depth), or a pattern with * and ?.
        image_key: the feature of an Example that is the encoded image.
        label_key: the feature that is the class, a whole number; unlabelled where there is none, or for "".
        holdout: the share of records kept for testing where the files are not split.
    """

    path: str
    image_key: str = "image"
    label_key: str = "label"
    holdout: float = 0.1

    def open(self, split: str) -> Source:
        split = split_name(split)
        root, files = _found(self.path)
        sides = [_side(f) for f in files]
        if None in sides and any(sides):
            raise UserError(f"Of the files in {root} some have train or test in their names, and "
                            f"{files[sides.index(None)]} has not: give a pattern as data.path.")  # fmt: skip
        if "train" not in sides and any(sides):
            sides = [None] * len(sides)  # a pattern that names one side alone
        chosen = [f for f, side in zip(files, sides) if side in (None, split)]
        by_name = None not in sides and "test" in sides
        if not by_name:
            chosen = files
        field = self._field(root / files[0])
        label_key = self.label_key if field.key else ""
        # The labels of all splits decide how many classes there are, so that the splits agree.
        indexes = dict(zip(files, index_shards("array_record", root, files, label_key)))
        every = np.concatenate([i.labels for i in indexes.values()])
        classes = label_classes(every, self.label_key)
        labels = np.concatenate([indexes[f].labels for f in chosen])
        none = np.empty(0, np.int64)
        shards = Shards("array_record", root, chosen, np.array([len(indexes[f].labels) for f in chosen]), none, none)
        numbers = None
        if not by_name:
            held = held_out([str(i).encode() for i in range(len(shards))], self.holdout)
            numbers = np.flatnonzero(held == (split == "test"))
        if not len(shards) or (numbers is not None and not len(numbers)):
            raise UserError(f"The {split} split of {self.path} is empty: {len(shards)} records, "
                            f"data.holdout={self.holdout}.")  # fmt: skip
        return Records(f"array_record {root} ({split})", shards, field, labels, classes, numbers)

    def _field(self, path: Path) -> ImageField:
        """What the first record is. Raises UserError."""
        index = index_shards("array_record", path.parent, [path.name], "")[0]
        if not len(index.labels):
            raise UserError(f"{path} holds no record.")
        none = np.empty(0, np.int64)
        first = Shards("array_record", path.parent, [path.name], np.array([len(index.labels)]), none, none).read(0)
        if first.startswith(MAGIC):
            return ImageField("")
        try:
            keys, values = feature_keys(first), find_feature(first, self.image_key)
        except BadExample as error:
            raise UserError(f"The first record of {path} is neither an encoded image nor a tf.train.Example "
                            f"({error}).") from error  # fmt: skip
        if not isinstance(values, list) or len(values) != 1 or not bytes(values[0][:8]).startswith(MAGIC):
            what = "has no feature" if values is None else "holds no encoded image in"
            raise UserError(f"The first record of {path} {what} '{self.image_key}' (data.image_key). "
                            f"Its features: {', '.join(keys)}.")  # fmt: skip
        if self.label_key not in ("", ArrayRecord.label_key) and self.label_key not in keys:
            raise UserError(f"The first record of {path} has no feature '{self.label_key}' (data.label_key). "
                            f"{nearest(self.label_key, keys)}")  # fmt: skip
        return ImageField(self.image_key)


def _found(path: str) -> tuple[Path, list[str]]:
    """(the directory, the files relative to it, sorted). Raises UserError."""
    whole = Path(path).expanduser().absolute()
    if whole.is_dir():
        inside = (Path(folder, name) for folder, _, names in os.walk(whole) for name in names)
        paths = [p for p in inside if NAMES.search(p.name) and p.suffix not in (".json", ".tmp")]
        root = whole
    elif whole.is_file():
        root, paths = whole.parent, [whole]
    else:
        paths = [Path(p) for p in glob.glob(str(whole), recursive=True) if Path(p).is_file()]
        root = Path(os.path.commonpath([p.parent for p in paths])) if paths else whole.parent
    if not paths:
        beside = [p.name for p in root.iterdir()] if root.is_dir() else []
        hint = "holds no file with array_record in its name" if whole.is_dir() else "there is no such file"
        raise UserError(f"data.path={path}: {hint}. {nearest(whole.name, beside)}")
    return root, sorted(str(p.relative_to(root)) for p in paths)


def _side(file: str) -> str | None:
    """ "train" or "test" where a file's path says so."""
    words = SPLIT_WORD.findall(file)
    return SPLITS[words[-1]] if words else None
