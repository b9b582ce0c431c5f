"""What a source of samples is: a frozen set of config keys (`Spec`) that opens into numbered records (`Source`)."""

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError

SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test"}


@dataclass(frozen=True)
class Part:
    """Records start .. start + length - 1, which are shuffled among themselves and taken with this weight."""

    start: int
    length: int
    weight: float = 1.0


class Source(ABC):
    """One split of a data set: random access by number, labels known without reading an image.

    A source is pickled into every worker process, so it holds names and offsets and opens files when asked.

    Attributes:
        labels: int32 [n], -1 where unlabelled; [n, tokens] where every token (node) of a record has one.
        classes: the name of each label, or () when unlabelled.
        shuffled: whether the records lie in random order already, so that a slice of them is a fair share.
    """

    labels: np.ndarray
    classes: tuple[str, ...] = ()
    shuffled: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is shuffled by itself: everything at once, but in a mixture each source."""
        return (Part(0, len(self)),)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """The record's arrays by the names under which methods read them (`Method.batch_spec`), and "label".

        Images: {"image": encoded bytes or an array [h, w, c]}. Reading may raise OSError or BadImage.
        """
        return {"image": self.image(i), "label": int(self.labels[i])}

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
    """The config keys of a kind of source. Implementations are frozen dataclasses."""

    @abstractmethod
    def open(self, split: str) -> Source:
        """Open the split "train" or "test". Raises UserError when it cannot be found or is empty."""


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


def label_phrase(source: Source) -> str:
    """How the records are labelled, for `describe`."""
    return f"{len(source.classes)} classes" if source.classes else "unlabelled"


def split_name(split: str) -> str:
    """The name "train" or "test"; "val" and "validation" are other names for "test"."""
    if split not in SPLITS:
        raise UserError(f"There is no split '{split}': a source has the splits 'train' and 'test' ('val').")
    return SPLITS[split]


def held_out(names: list[bytes], holdout: float) -> np.ndarray:
    """Which records are held out for testing, decided by each record's name alone.

    A record is held out when crc32(name) / 2^32 < holdout, so adding files moves no other file, and machines agree.
    Neither side is left empty when there are two records or more and 0 < holdout < 1.

    Returns: bool [n].
    """
    if not 0 <= holdout < 1:
        raise UserError(f"data.holdout is {holdout}: the share of images kept for testing, 0 <= holdout < 1.")
    score = np.array([zlib.crc32(name) for name in names], np.float64) / 2**32
    held = score < holdout
    if len(names) > 1 and holdout > 0:
        if not held.any():
            held[score.argmin()] = True
        elif held.all():
            held[score.argmax()] = False
    return held
