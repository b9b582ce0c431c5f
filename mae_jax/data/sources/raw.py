"""Images as plain bytes in files of equally long records: what CIFAR and STL-10 come as."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.sources.base import Source, label_phrase


class Layout(NamedTuple):
    """One record: bytes that go before the pixels, then uint8 pixels.

    Attributes:
        before: bytes of a record before its pixels (labels).
        shape: of the pixels as they are stored.
        axes: which of the stored axes are row, column and channel.
    """

    before: int
    shape: tuple[int, int, int]
    axes: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Bytes of a record."""
        return self.before + int(np.prod(self.shape))


class RawImages(Source):
    """Records of `files`, end to end. Files are mapped, by each process for itself on first use.

    Args:
        labels: int [n], -1 where unlabelled.
        title: what `name` and `describe` begin with.
    """

    def __init__(self, files: Sequence[Path], layout: Layout, labels: Any, title: str, classes: tuple[str, ...] = ()):
        self.files, self.layout, self.title, self.classes = tuple(files), layout, title, classes
        self.labels = np.asarray(labels, np.int32)
        self.firsts = np.cumsum([0, *(len(rows(f, layout)) for f in files)])
        self._maps: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_maps": {}}

    def image(self, i: int) -> np.ndarray:
        file = int(np.searchsorted(self.firsts, i, side="right")) - 1
        if file not in self._maps:
            self._maps[file] = rows(self.files[file], self.layout)
        pixels = self._maps[file][i - self.firsts[file], self.layout.before :]
        return np.ascontiguousarray(pixels.reshape(self.layout.shape).transpose(self.layout.axes))

    def name(self, i: int) -> str:
        return f"{self.title} #{i}"

    def describe(self) -> str:
        h, w, c = (self.layout.shape[a] for a in self.layout.axes)
        return f"{self.title}: {len(self)} images {h}x{w}x{c} in {self.files[0].parent}, {label_phrase(self)}"


def rows(path: Path, layout: Layout) -> np.ndarray:
    """The records of a file, mapped: uint8 [n, layout.size]. Raises UserError where it does not hold whole ones."""
    length = path.stat().st_size
    if not length or length % layout.size:
        raise UserError(f"{path} has {length:,} bytes, and its records have {layout.size:,} each: it is cut off, or "
                        "another file. Get it again.")  # fmt: skip
    return np.memmap(path, np.uint8, "r").reshape(-1, layout.size)


def read_names(path: Path, count: int) -> tuple[str, ...]:
    """The lines of a file of class names; "0", "1", ... where there is no such file."""
    if not path.is_file():
        return tuple(str(c) for c in range(count))
    names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if len(names) != count:
        raise UserError(f"{path} holds {len(names)} class names, and {count} are expected.")
    return names


def check_labels(labels: np.ndarray, count: int, path: Path) -> np.ndarray:
    """The labels, if all are classes below `count`; else UserError."""
    if labels.size and not 0 <= labels.min() <= labels.max() < count:
        raise UserError(f"{path} holds the labels {labels.min()} to {labels.max()}: {count} classes expected. It is "
                        "another data set, or damaged.")  # fmt: skip
    return labels


def find_folder(path: str, inside: Sequence[str], holds: Sequence[str], what: str) -> Path:
    """The folder `path`, or the one in it of the names `inside`, that holds the files `holds`.

    Raises: UserError that says what was looked for (`what`: where it comes from).
    """
    root = Path(path).expanduser().absolute()
    if root.is_file():
        raise UserError(f"data.path={path} is a file. Unpack it (tar -xzf) and give the folder. {what}")
    if not root.is_dir():
        beside = [p.name for p in root.parent.iterdir() if p.is_dir()] if root.parent.is_dir() else []
        raise UserError(f"data.path={path}: there is no such directory ({root}). {nearest(root.name, beside)} {what}")
    for folder in (root, *(root / name for name in inside)):
        if any((folder / name).is_file() for name in holds):
            return folder
    there = sorted(p.name for p in root.iterdir())
    seen = ", ".join(there[:8]) + (f" and {len(there) - 8} more" if len(there) > 8 else "")
    raise UserError(f"{root} holds neither {' nor '.join(holds)} (it holds {seen or 'nothing'}). {what}")
