"""STL-10 (Coates, Ng and Lee, 2011) in the binary files that its authors published."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.sources.base import Source, Spec
from mae_jax.data.sources.raw import Layout, RawImages, check_labels, find_folder, read_names, rows

LAYOUT = Layout(0, (3, 96, 96), (2, 1, 0))  # channel planes, each column by column
SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test", "unlabeled": "unlabeled"}


@dataclass(frozen=True)
class Stl10(Spec):
    """STL-10: images of 96 x 96; splits train (5,000), test (8,000), ten classes, and unlabeled (100,000).

    The files train_X.bin, train_y.bin, test_X.bin, test_y.bin, unlabeled_X.bin are mapped. Pretraining takes
    data.train_split="unlabeled" (or "train+unlabeled", unlabelled as a whole), probing "train".

    Args:
        path: the unpacked folder stl10_binary, or the one that it lies in.
    """

    path: str

    named_splits: ClassVar[bool] = True

    def open(self, split: str) -> Source:
        if split not in SPLITS:
            raise UserError(f"STL-10 has no split '{split}': its splits are train, test ('val') and unlabeled.")
        split = SPLITS[split]
        folder = find_folder(
            self.path, ["stl10_binary"], ["train_X.bin", "unlabeled_X.bin", "test_X.bin"],
            "Get stl10_binary.tar.gz from https://cs.stanford.edu/~acoates/stl10/, unpack it, and set data.path to "
            "the folder.",
        )  # fmt: skip
        pixels, labels = folder / f"{split}_X.bin", folder / f"{split}_y.bin"
        for file in (pixels,) if split == "unlabeled" else (pixels, labels):
            if not file.is_file():
                raise UserError(f"{file} is not there, though other files of STL-10 are. Unpack the archive again.")
        count = len(rows(pixels, LAYOUT))
        title = f"stl10 {split}"
        if split == "unlabeled":
            return RawImages([pixels], LAYOUT, np.full(count, -1), title)
        numbers = np.fromfile(labels, np.uint8).astype(np.int64) - 1  # stored as 1 to 10
        if len(numbers) != count:
            raise UserError(f"{pixels} holds {count} images and {labels.name} {len(numbers)} labels.")
        names = read_names(folder / "class_names.txt", 10)
        return RawImages([pixels], LAYOUT, check_labels(numbers, 10, labels), title, names)
