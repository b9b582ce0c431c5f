"""Data sets that tensorflow-datasets (TFDS) prepared, without TensorFlow, and without TFDS itself."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.core.plain import loads
from mae_jax.data.sources.base import Source, Spec, held_out, split_name
from mae_jax.data.sources.record_index import index_shards
from mae_jax.data.sources.records import FORMATS, MAGIC, ImageField, Records, Shards, label_classes

TEST_SPLITS = ("validation", "val", "test")  # the first that is there, as ImageNet's own test images have no labels
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
DTYPES = ("uint8", "uint16", "float32", "float64", "bool")


@dataclass(frozen=True)
class Tfds(Spec):
    """A prepared data set of TFDS: array_record or TFRecord files with dataset_info.json. Images are decoded by us.

    - The splits are the set's own, by their names (data.train_split=unlabelled, data.test_split=test). "val", the
      default, is validation or else test; where there is neither, a share of the training records is held out, chosen
      by their numbers.
    - The labels are read once, which takes a pass over array_record files, and kept in a small file beside them
      (or in ~/.cache/mae_jax).

    Args:
        path: the directory of a version, or one above it (the highest version is taken); "": found by `name`.
        name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION below `data_dir`.
        data_dir: default: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        image_key: the feature that is the image, "/" between the parts of a nested one.
        label_key: the feature that is the class; "": unlabelled.
        holdout: the share of records kept for testing where there is no test split.
    """

    named_splits: ClassVar[bool] = True

    path: str = ""
    name: str = ""
    data_dir: str = ""
    image_key: str = "image"
    label_key: str = "label"
    holdout: float = 0.1

    def open(self, split: str) -> Source:
        root = find_version(self._directory())
        info, features = _json(root / "dataset_info.json"), _features(root)
        splits = {s["name"]: s for s in info.get("splits", [])}
        test = next((s for s in TEST_SPLITS if s in splits), None)
        chosen = split
        if split not in splits:
            split = split_name(split)
            chosen = test if split == "test" and test else "train"
        if chosen not in splits:
            raise UserError(f"{root / 'dataset_info.json'} has the splits {', '.join(splits) or 'none'}, and not "
                            f"'{chosen}': name one of them in data.train_split and data.test_split.")  # fmt: skip
        kind = info.get("fileFormat", "tfrecord")
        if kind not in FORMATS:
            raise UserError(f"{root} is stored as '{kind}': {' and '.join(FORMATS)} can be read.")
        label_key = self.label_key if self._is_label(root, features) else ""
        files, counts = _files(root, info, splits[chosen], kind)
        indexes = index_shards(kind, root, files, label_key)
        _check_counts(root, files, [len(i.labels) for i in indexes], counts)
        columns = (np.concatenate([getattr(i, c) for i in indexes]) for c in ("labels", "offsets", "lengths"))
        labels, offsets, lengths = columns
        shards = Shards(kind, root, files, np.array(counts), offsets, lengths)
        if not len(shards):
            raise UserError(f"The split '{chosen}' of {root} is empty.")
        field = image_field(features, self.image_key) if features else _guessed(root, shards, self.image_key)
        numbers = None
        if test is None and chosen == "train":
            held = held_out([str(i).encode() for i in range(len(shards))], self.holdout)
            numbers = np.flatnonzero(held == (split == "test"))
            if not len(numbers):
                raise UserError(f"{root} has no test split, and data.holdout={self.holdout} of {len(shards)} records "
                                "leaves nothing for one.")  # fmt: skip
        classes = _class_names(root, features, self.label_key, labels) if label_key else ()
        title = f"tfds {info.get('name', root.parent.name)} {info.get('version', '')} ({chosen})"
        return Records(title, shards, field, labels, classes, numbers, shuffled=True)

    def _directory(self) -> Path:
        if bool(self.path) == bool(self.name):
            raise UserError("The tfds source needs data.path (a prepared directory), or else data.name (and "
                            "data.data_dir, if it is not ~/tensorflow_datasets).")  # fmt: skip
        if self.path:
            root = Path(self.path).expanduser().absolute()
            if not root.is_dir():
                beside = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
                raise UserError(f"data.path={self.path}: there is no such directory. {nearest(root.name, beside)}")
            return root
        home = Path(self.data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser().absolute()
        root = home / self.name.replace(":", "/")
        if not root.is_dir():
            there = sorted(p.name for p in home.iterdir() if p.is_dir()) if home.is_dir() else []
            raise UserError(
                f"data.name={self.name}: there is no {root}. {nearest(self.name, there)} A data set is prepared by "
                f"tfds.builder('{self.name}', file_format='array_record').download_and_prepare()."
            )
        return root

    def _is_label(self, root: Path, features: dict[str, Any]) -> bool:
        """Whether there is a label to read. Raises UserError where the feature of that name can be none."""
        if not self.label_key:
            return False
        if not features:
            return True
        found = flat_features(features)
        if self.label_key not in found:
            if self.label_key == Tfds.label_key:
                return False
            raise UserError(f"{root} has no feature '{self.label_key}' (data.label_key). "
                            f"{nearest(self.label_key, found)}")  # fmt: skip
        held = found[self.label_key]
        tensor = held.get("tensor", {})
        scalar = "int" in tensor.get("dtype", "") and not tensor.get("shape", {}).get("dimensions")
        if "classLabel" not in held and not (scalar and tensor.get("encoding", "none") == "none"):
            raise UserError(f"data.label_key={self.label_key} is a {_class_name(held)} in {root}: a ClassLabel or one "
                            "whole number expected. Name another feature, or data.label_key='' for none.")  # fmt: skip
        return True


def find_version(root: Path) -> Path:
    """The directory with dataset_info.json: `root`, or its highest version, or that of its only configuration."""
    for _ in range(3):
        if (root / "dataset_info.json").is_file():
            return root
        inner = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
        versions = [p for p in inner if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
        configs = [p for p in inner if p not in versions and any(p.rglob("dataset_info.json"))] if not versions else []
        if versions:
            root = max(versions, key=lambda p: tuple(map(int, p.name.split("."))))
        elif len(configs) == 1:
            root = configs[0]
        elif configs:
            raise UserError(f"{root} holds several data sets ({', '.join(sorted(p.name for p in configs))}): give "
                            "the path of one of them.")  # fmt: skip
        else:
            break
    raise UserError(f"There is no dataset_info.json in {root} or in a version (1.0.0) below it: this is no directory "
                    "that TFDS prepared. For shards without it use data.source='array_record'.")  # fmt: skip


def flat_features(features: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """features.json by the names that a record uses: "/" between the parts of nested ones."""
    found: dict[str, dict[str, Any]] = {}
    for key, held in features.get("featuresDict", {}).get("features", {}).items():
        found |= flat_features(held, f"{prefix}{key}/") if "featuresDict" in held else {prefix + key: held}
    return found


def image_field(features: dict[str, Any], key: str) -> ImageField:
    """How features.json says that the image is stored. Raises UserError."""
    found = flat_features(features)
    if key not in found:
        raise UserError(f"The data set has no feature '{key}' (data.image_key). {nearest(key, found)}")
    held = found[key]
    kind = next((k for k in ("image", "tensor") if k in held), None)
    dtype = held[kind].get("dtype", "uint8") if kind else ""
    shape = tuple(None if int(s) < 0 else int(s) for s in held[kind].get("shape", {}).get("dimensions", ())) \
        if kind else ()  # fmt: skip
    if kind == "image" and dtype in ("uint8", "uint16"):
        return ImageField(key)
    if kind == "tensor" and dtype in DTYPES and len(shape) in (2, 3):
        return ImageField(key, held["tensor"].get("encoding", "none"), dtype, shape)
    raise UserError(
        f"data.image_key={key} is a {_class_name(held)} {dtype} {list(shape)}: an Image of uint8 or uint16, or a "
        f"Tensor [h, w] or [h, w, c] of {', '.join(DTYPES)} expected."
    )


def _guessed(root: Path, shards: Shards, key: str) -> ImageField:
    """For a set without features.json that can be read (older ones): encoded images, if the first record is one."""
    field = ImageField(key)
    first = field.take(shards.read(0))
    if not isinstance(first, bytes) or not first.startswith(MAGIC):
        raise UserError(f"{root} has no features.json of TFDS 4, and '{key}' in its first record is no encoded image: "
                        "prepare it with a newer TFDS.")  # fmt: skip
    return field


def _class_name(held: dict[str, Any]) -> str:
    return held.get("pythonClassName", "feature").rsplit(".", 1)[-1]


def _class_names(root: Path, features: dict[str, Any], key: str, labels: np.ndarray) -> tuple[str, ...]:
    """From KEY.labels.txt, or numbers: as many as features.json says, or as the labels show."""
    file = root / f"{key.replace('/', '-')}.labels.txt"
    if file.is_file():
        return tuple(file.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    count = int(flat_features(features).get(key, {}).get("classLabel", {}).get("numClasses", 0))
    return tuple(map(str, range(count))) if count else label_classes(labels, key)


def _files(root: Path, info: dict[str, Any], split: dict[str, Any], kind: str) -> tuple[list[str], list[int]]:
    """(names of a split's files, records in each) from dataset_info.json."""
    counts = [int(n) for n in split.get("shardLengths", [])]
    if not counts:
        raise UserError(f"{root / 'dataset_info.json'} names no files for '{split['name']}': it is older than TFDS 3, "
                        "or its preparation was broken off. Prepare the data set again.")  # fmt: skip
    template = os.path.basename(split.get("filepathTemplate") or TEMPLATE)
    files = []
    for i in range(len(counts)):
        words = {
            "DATASET": info.get("name", ""),
            "SPLIT": split["name"],
            "FILEFORMAT": kind,
            "SHARD_INDEX": f"{i:05d}",
            "NUM_SHARDS": f"{len(counts):05d}",
            "SHARD_X_OF_Y": f"{i:05d}-of-{len(counts):05d}",
        }
        files.append(re.sub(r"\$?{(\w+)}", lambda m: words.get(m[1], m[0]), template))  # noqa: B023
    missing = [f for f in files if not (root / f).is_file()]
    if missing:
        raise UserError(f"{root} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
                        + ", which dataset_info.json names: copy or prepare it again.")  # fmt: skip
    return files, counts


def _check_counts(root: Path, files: list[str], found: list[int], said: list[int]) -> None:
    for name, there, wanted in zip(files, found, said):
        if there != wanted:
            raise UserError(f"{root / name} holds {there} records where dataset_info.json says {wanted}: copy or "
                            "prepare it again.")  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        found = loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("no object")
        return found
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): copy or prepare the data set again.") from error


def _features(root: Path) -> dict[str, Any]:
    """features.json as TFDS 4.5 and later write it; {} where it is older or missing."""
    path = root / "features.json"
    features = _json(path) if path.is_file() else {}
    return features if "featuresDict" in features else {}
