"""Audio files: class folders, Speech Commands, ESC-50, and tables with several labels for a file (AudioSet)."""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.core.plain import read_json
from mae_jax.data.audio import EXTENSIONS, read, soundfile
from mae_jax.data.limits import read_file
from mae_jax.data.sources.base import Source, Spec, held_out, label_phrase, number_labels, split_name
from mae_jax.data.sources.folder import TEST_FOLDERS, Folder, class_labels, class_names, files_below, train_folder
from mae_jax.data.sources.names import Names

ENDINGS = tuple(e.encode() for e in sorted(EXTENSIONS))
FILE = ("path", "file", "filename", "wav")  # columns of a table; the first that is there
LABEL, LABELS = ("label", "category"), ("labels", "ebird_code_multilabel")
NOT_WORDS = b"_background_noise_/"  # in Speech Commands: minutes of noise


@dataclass(frozen=True)
class Audio(Spec):
    """Files below a directory, each decoded whole (wav, flac, ogg ...; needs the extra `audio`). What is there decides:

    - `table`: a .csv with a header (columns path, file, filename or wav; label or category, or labels, separated by
      "," or ";"; split), AudioSet's own .csv (YTID, start, end, labels; files PATH/YTID.wav and the like), or a .json
      {"data": [{"wav", "labels"}]} as AST and Audio-MAE keep AudioSet. With a column of labels, or in the latter two,
      a file may have several.
    - PATH/meta/esc50.csv: ESC-50, its fold `fold` for testing.
    - PATH/testing_list.txt: Speech Commands, the files of that list for testing; its noises are left out.
    - else as the source "folder": train and test directories or a share held out, first-level directories are classes.

    Args:
        path: the directory.
        table: of the files and labels; "{split}" in its name becomes train or test. Without that and without a column
            split, a share of the files is held out.
        vocabulary: a .csv with the columns mid (or name) and, in their order, all labels, as AudioSet's
            class_labels_indices.csv; others are then refused. None: the labels that occur, sorted.
        holdout: the share of files kept for testing where nothing else says which.
        fold: of ESC-50.
    """

    path: str
    table: str | None = None
    vocabulary: str | None = None
    holdout: float = 0.1
    fold: int = 5

    def open(self, split: str) -> Source:
        soundfile()
        split = split_name(split)
        root = Folder(self.path).directory()
        if self.table:
            return self._of_table(root, split)
        if (root / "meta" / "esc50.csv").is_file():
            return self._esc50(root, split)
        if (root / "testing_list.txt").is_file():
            return self._speech_commands(root, split)
        train = train_folder(root)
        test = next((root / t for t in TEST_FOLDERS if (root / t).is_dir()), None) if train != root else None
        names = Names.of(files_below(train, ENDINGS))
        classes = class_names(names) if len(names) else ()
        base = train
        if test is not None and split == "test":
            base, names = test, Names.of(files_below(test, ENDINGS))
        elif test is None and len(names):
            names = names.take(held_out(names, self.holdout) == (split == "test"))
        labels = class_labels(names, classes, base) if len(names) else np.zeros(0, np.int32)
        return AudioFiles(base, names, labels, classes, split)

    def _speech_commands(self, root: Path, split: str) -> Source:
        listed = {line.strip().encode() for line in (root / "testing_list.txt").read_text().splitlines()}
        every = Names.of(name for name in files_below(root, ENDINGS) if not name.startswith(NOT_WORDS))
        classes = class_names(every)
        names = Names.of(name for name in every if (name in listed) == (split == "test"))
        return AudioFiles(root, names, class_labels(names, classes, root), classes, split)

    def _esc50(self, root: Path, split: str) -> Source:
        with (root / "meta" / "esc50.csv").open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        numbers, classes = number_labels([row["category"] for row in rows], "esc50.csv")
        chosen = np.array([(int(row["fold"]) == self.fold) == (split == "test") for row in rows])
        names = [f"audio/{row['filename']}" for row, own in zip(rows, chosen) if own]
        return AudioFiles(root, _packed(names), numbers[chosen], classes, split)

    def _of_table(self, root: Path, split: str) -> Source:
        path = Path(str(self.table).replace("{split}", split)).expanduser()
        path = path if path.is_absolute() else root / path
        if not path.is_file():
            raise UserError(f"data.table={self.table}: there is no file {path}.")
        rows = list(_json_rows(path) if path.suffix == ".json" else _csv_rows(path, root))
        every = sorted({label for row in rows for label in row.labels})
        classes = _vocabulary(root, self.vocabulary) if self.vocabulary else tuple(every)
        for label in every:
            if label not in classes:
                raise UserError(f"{path} has the label '{label}', which data.vocabulary={self.vocabulary} lacks. "
                                f"{nearest(label, classes)}")  # fmt: skip
        if "{split}" not in str(self.table):
            codes = {row.split for row in rows}
            held = held_out([os.fsencode(row.name) for row in rows], self.holdout)
            test = [split_name(row.split) == "test" for row in rows] if codes != {""} else held
            rows = [row for row, is_test in zip(rows, test) if is_test == (split == "test")]
        number = {label: i for i, label in enumerate(classes)}
        if any(row.several for row in rows):
            labels = np.zeros((len(rows), len(classes)), np.int32)
            for i, row in enumerate(rows):
                labels[i, [number[label] for label in row.labels]] = 1
        else:
            labels = np.array([number[row.labels[0]] if row.labels else -1 for row in rows], np.int32)
        return AudioFiles(root, _packed([row.name for row in rows]), labels, classes, split)


class Row(NamedTuple):
    """A file of a table, relative to data.path or absolute, and what is said of it."""

    name: str
    labels: tuple[str, ...]
    split: str = ""
    several: bool = True  # whether a file may have more than one label


class AudioFiles(Source):
    """Audio files by `names` relative to `root`; `labels` int32 [n] (if any is -1, all are unlabelled) or [n, classes].

    Records are {"waveform": float32 [samples], "rate", "label"}.
    """

    def __init__(self, root: Path, names: Names, labels: np.ndarray, classes: tuple[str, ...], split: str):
        if not len(names):
            raise UserError(
                f"the {split} split of the audio source {root} is empty: files ending in "
                f"{', '.join(sorted(EXTENSIONS))} expected, below it or in data.table. docs/audio.md says what decides "
                f"on the splits."
            )
        self.root, self.names, self.split = root, names, split
        self.multilabel = labels.ndim == 2
        known = bool(classes) and (self.multilabel or not (labels < 0).any())
        self.labels = labels.astype(np.int32) if known else np.full(len(names), -1, np.int32)
        self.classes = classes if known else ()

    def name(self, i: int) -> str:
        return os.fsdecode(self.names[i])

    def where(self, i: int) -> str:
        return os.path.join(self.root, self.name(i))

    def __getitem__(self, i: int) -> dict[str, Any]:
        waveform, rate = read(read_file(self.where(i)))
        label = self.labels[i]
        return {"waveform": waveform, "rate": rate, "label": label if self.multilabel else int(label)}

    def describe(self) -> str:
        several = " (several for a file)" if self.multilabel else ""
        return f"audio {self.root}: {len(self)} files ({self.split}), {label_phrase(self)}{several}"


def _packed(names: Iterable[str]) -> Names:
    return Names.of(os.fsencode(name) for name in names)


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        data = read_json(path, 256 << 20)["data"]
        for datum in data:
            yield Row(str(datum["wav"]), _parts(str(datum["labels"])))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is no table of audio files: {{"data": [{{"wav": ..., "labels": "a,b"}}, ...]}} expected '
            f"({type(error).__name__}: {error})."
        ) from error


def _csv_rows(path: Path, root: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = file.readlines()
    if lines and lines[0].startswith("#"):  # AudioSet's segments
        for fields in csv.reader((line for line in lines if not line.startswith("#")), skipinitialspace=True):
            yield Row(_youtube(root, fields[0]), _parts(fields[3]))
        return
    reader = csv.DictReader(lines)
    header = list(reader.fieldnames or ())
    name, one, many = (next((c for c in some if c in header), None) for some in (FILE, LABEL, LABELS))
    if name is None:
        raise UserError(f"the table {path} names no column of files ({', '.join(FILE)}): its header is {header}.")
    row: dict[Any, Any]
    for row in reader:
        if None in row or None in row.values():
            raise UserError(f"line {reader.line_num} of {path} does not have {len(header)} fields.")
        labels = _parts(row[many]) if many else (row[one],) if one and row[one] else ()
        yield Row(row[name], labels, row.get("split", ""), bool(many))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.strip("[]").replace(";", ",").split(",") if part.strip())


def _youtube(root: Path, number: str) -> str:
    """The file of a YouTube number, under the names that are common; the first of them where there is none."""
    found = [f"{prefix}{number}{end}" for prefix in ("", "Y") for end in sorted(EXTENSIONS)]
    return next((name for name in found if (root / name).is_file()), f"{number}.wav")


def _vocabulary(root: Path, name: str) -> tuple[str, ...]:
    path = Path(name).expanduser()
    path = path if path.is_absolute() else root / path
    if not path.is_file():
        raise UserError(f"data.vocabulary={name}: there is no file {path}.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        column = next((c for c in ("mid", "name", "label") if c in (reader.fieldnames or ())), None)
        if column is None:
            raise UserError(f"{path} has no column mid, name or label: its header is {reader.fieldnames}.")
        return tuple(row[column] for row in reader)
