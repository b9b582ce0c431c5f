"""What a source of samples is: a frozen set of config keys (`Spec`) that opens into numbered records (`Source`)."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.names import restored, shared_state

SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
MAX_CLASSES = 1_000_000  # integer labels above are mistaken for something else


class Part(NamedTuple):
    """Records [start, start + length) of a source, and their weight among what training sees."""

    start: int
    length: int
    weight: float


class Source(ABC):
    """One split of a data set: random access by number, labels known without reading an image.

    A source is pickled into every worker process, so it holds names and offsets and opens files when asked. Large
    arrays that are its attributes reach other processes as a file that all map (names.py).

    Attributes:
        labels: int32 [n], -1 where unlabelled; [n, tokens] where every token (node) of a record has one; [n, classes]
            of 0 and 1 where `multilabel`.
        multilabel: whether a record may be of several classes, or of none; a row of -1 is unlabelled.
        classes: the name of each label, or () when unlabelled.
        segments: the names of the classes of pixels, where records have a "segmentation" (data/annotation.py).
        part_counts: how many parts each class has, numbered through, where records have a "part" for each point.
        shuffled: whether the records are stored in random order, so that a slice of them is a random sample.
    """

    shuffled: bool = False
    labels: np.ndarray
    classes: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    part_counts: tuple[int, ...] = ()
    multilabel: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """Consecutive ranges that cover all records, from which training draws by weight. By default one."""
        return (Part(0, len(self), 1.0),)

    def __getstate__(self) -> dict[str, Any]:
        return shared_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(restored(state))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """The record's arrays by the names under which methods read them (`Method.batch_spec`), and "label".

        Images: {"image": encoded bytes or an array [h, w, c]}. Reading may raise OSError or BadImage.
        """
        return {"image": self.image(i), "label": label_of(self.labels, i)}

    def image(self, i: int) -> bytes | np.ndarray:
        """Encoded bytes, or an array [h, w, c]. A source of something else overrides `__getitem__` instead."""
        raise NotImplementedError(f"{type(self).__name__} holds no images")

    @abstractmethod
    def name(self, i: int) -> str:
        """What identifies record i wherever the data lie (a path relative to the root)."""

    def where(self, i: int) -> str:
        """Where record i is found, for messages."""
        return self.name(i)

    @abstractmethod
    def describe(self) -> str:
        """One line: what it is, how many, how labelled."""


class Spec(ABC):
    """The config keys of a kind of source. Implementations are frozen dataclasses.

    Attributes:
        named_splits: whether the data name their splits themselves, so that "val" and "test" may be different ones.
    """

    named_splits: ClassVar[bool] = False

    @abstractmethod
    def open(self, split: str) -> Source:
        """Open the split "train" or "test" (slices: `subset.open_split`). Raises UserError if there is none."""


class Arrays(Source):
    """Images that lie in one array in memory or in a memory map.

    Args:
        images: [n, h, w, c].
        labels: int [n], -1 where unlabelled.
        title: what `name` and `describe` begin with.
        numbers: int [n], the number each image has in the data set as a whole; default 0..n-1.
    """

    def __init__(self, images, labels, title: str, classes: tuple[str, ...] = (), numbers=None):
        self.images = images
        self.labels = np.asarray(labels, np.int32)
        self.title = title
        self.classes = classes
        self.numbers = np.arange(len(labels)) if numbers is None else np.asarray(numbers)

    def image(self, i: int) -> np.ndarray:
        return np.asarray(self.images[i])

    def name(self, i: int) -> str:
        return f"{self.title} #{self.numbers[i]}"

    def describe(self) -> str:
        h, w, c = self.images.shape[1:]
        return f"{self.title}: {len(self)} images {h}x{w}x{c} {self.images.dtype}, {label_phrase(self)}"


def label_of(labels: np.ndarray, i: int) -> Any:
    """Record i's label: an int, or int32 [tokens] or [classes]."""
    return int(labels[i]) if labels.ndim == 1 else labels[i]


def label_phrase(source: Source) -> str:
    """How the records are labelled, for `describe`."""
    if source.segments:
        return f"{len(source.segments)} classes of pixels"
    several = ", several per record" if source.multilabel else ""
    return f"{len(source.classes)} classes{several}" if source.classes else "unlabelled"


def split_name(split: str) -> str:
    """The name "train" or "test"; "val" and "validation" are other names for "test"."""
    if split not in SPLITS:
        raise UserError(f"There is no split '{split}': a source has the splits 'train' and 'test' ('val').")
    return SPLITS[split]


def held_out(names: Iterable[bytes], holdout: float) -> np.ndarray:
    """Which records are held out for testing, decided by each record's name alone.

    A record is held out when crc32(name) / 2^32 < holdout, so adding files moves no other file, and machines agree.
    Neither side is left empty when there are two records or more and 0 < holdout < 1.

    Returns: bool [n].
    """
    if not 0 <= holdout < 1:
        raise UserError(f"data.holdout is {holdout}: the share of images kept for testing, 0 <= holdout < 1.")
    score = np.fromiter((zlib.crc32(name) for name in names), np.uint32)
    held = score < holdout * 2**32
    if len(score) > 1 and holdout > 0:
        if not held.any():
            held[score.argmin()] = True
        elif held.all():
            held[score.argmax()] = False
    return held


def number_labels(texts: Sequence[str], what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Label texts that occur -> (the number of each, int32; the classes' names).

    Whole numbers are taken as they are, classes "0", "1", ... up to the largest. Otherwise the texts are class names,
    numbered in sorted order.

    Args: what: names the place, for messages.
    """
    if texts and all(t.isascii() and t.isdigit() for t in texts):
        numbers = [int(t) for t in texts]
        return np.array(numbers, np.int32), integer_classes(max(numbers), what)
    classes = tuple(sorted(set(texts)))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[t] for t in texts], np.int32), classes


def integer_classes(largest: int, what: str) -> tuple[str, ...]:
    """Names "0", "1", ... of integer labels up to `largest`."""
    if largest >= MAX_CLASSES:
        raise UserError(f"{what} holds the label {largest}: class numbers below {MAX_CLASSES:,} expected. If the "
                        "column is no class number, name another one.")  # fmt: skip
    return tuple(str(c) for c in range(largest + 1))
