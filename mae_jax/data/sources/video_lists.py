"""Lists of videos in VideoMAE's layout: lines "path label", or "path frames label" for folders of frames."""

import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import integer_classes
from mae_jax.data.sources.manifest import LOOKED_FOR, find_table
from mae_jax.data.sources.names import Names


def is_list(file: str) -> bool:
    """Whether a manifest is such a list: text whose first line names no column "path"."""
    path = find_table(file)
    if path.suffix == ".parquet":
        return False
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as text:
        return "path" not in [field.strip() for field in text.readline().split(",")]


def read_list(
    file: str, root: Path, exists: Callable[[Path], bool]
) -> tuple[Names, np.ndarray, np.ndarray, tuple[str, ...]]:
    """(names, labels int32 [n], frames int32 [n] with 0 for all there are, classes "0", "1", ...).

    Paths may be absolute, and may hold spaces; a label of -1 is none. Blank lines are passed over.

    Args:
        root: what relative paths are relative to.
        exists: what must hold for the first LOOKED_FOR paths.

    Raises: UserError that names the line.
    """
    path = find_table(file)
    labels, frames = array("i"), array("i")

    def names() -> Iterator[bytes]:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as text:
            for number, line in enumerate(text, 1):
                if not line.strip():
                    continue
                name, count, label = _fields(line, f"Line {number} of {path}")
                if len(labels) < LOOKED_FOR and not exists(root / name):
                    raise UserError(
                        f"Line {number} of {path}: there is no video {root / name}. Paths are absolute, or relative to "
                        f"data.path."
                    )
                labels.append(label)
                frames.append(count)
                yield os.fsencode(name)

    found = Names.of(names())
    if not len(found):
        raise UserError(f"The list {path} holds no line: 'path label' of a video in each expected.")
    label = np.frombuffer(labels, np.int32)
    classes = integer_classes(int(label.max()), str(path)) if label.max() >= 0 else ()
    return found, label, np.frombuffer(frames, np.int32), classes


def _fields(line: str, place: str) -> tuple[str, int, int]:
    """(path, frames or 0, label)."""
    head, _, last = line.strip().rpartition(" ")
    label = _whole(last)
    if not head or label is None or label < -1:
        raise UserError(
            f"{place} is {line.strip()!r}: 'path label', or 'path frames label' for a folder of frames, expected, with "
            f"a label that is a whole number (-1: none). A table of other columns needs a header that names them "
            f"(path,label,split)."
        )
    rest, _, middle = head.strip().rpartition(" ")
    count = _whole(middle) if rest else None
    if count is None:
        return head.strip(), 0, label
    return rest.strip(), max(0, count), label


def _whole(text: str) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() else None
