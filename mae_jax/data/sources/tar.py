"""WebDataset shards: samples inside .tar files, read where they lie."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_jax.core.errors import UserError, nearest
from mae_jax.data.limits import check_bytes
from mae_jax.data.sources.base import Source, Spec, held_out, integer_classes, label_phrase, split_name
from mae_jax.data.sources.folder import EXTENSIONS
from mae_jax.data.sources.names import Names
from mae_jax.data.sources.open_files import Descriptor, OpenFiles
from mae_jax.data.sources.shards import find_shards, split_shards
from mae_jax.data.sources.tar_index import Shard, read_index

OPEN_FILES = 64  # shards a process keeps open


@dataclass(frozen=True)
class Tar(Spec):
    """WebDataset shards (.tar, not gzipped), read by random access and never extracted.

    - A sample is the consecutive members that share a key: the path up to the first dot of its last component. Its
      image is the first member whose extension is that of an image; samples without one are left out.
    - Labels: the whole number in the member .cls, else the field `label_key` of the member .json. When a sample has
      none, all are unlabelled.
    - Words in the shards' paths (train, val, test, validation) are the splits, where there are train and another.
      Otherwise the test split is a share of the samples, chosen by the crc32 of their keys.
    - The shards' headers are read once; the index is kept in .mae_jax-index.npz beside them, and checked against each
      shard's size and time of change.

    Args:
        path: a directory, one .tar, or a pattern: "imagenet-{000..146}.tar", "*.tar".
        holdout: the share of samples kept for testing where there is no test shard.
        image_key: the extension of the image, as "left.png"; "": the first of an image format.
        label_key: the field of .json; "": read no labels.
        cache: where the index is kept; "": beside the shards or, where that is read-only, ~/.cache/mae_jax.
    """

    path: str
    holdout: float = 0.1
    image_key: str = ""
    label_key: str = "label"
    cache: str = ""

    def open(self, split: str) -> Source:
        split = split_name(split)
        root, files = find_shards(self.path, (".tar", ".tar.gz", ".tgz"))
        train, test = split_shards(root, files)
        needed = train if test is None else [*train, *test]  # classes are those of both
        index = read_index(needed, self.label_key, self.cache)
        largest = max((int(shard.labels.max(initial=-1)) for shard in index), default=-1)
        used = needed if test is None else (test if split == "test" else train)
        shards = [shard for file, shard in zip(needed, index, strict=True) if file in set(used)]
        source = Samples(root, used, shards, self._members(shards, root), split)
        if largest >= 0 and not (source.labels < 0).any():
            source.classes = integer_classes(largest, f"{root}, the labels,")
        else:
            source.labels = np.full(len(source), -1, np.int32)
        if test is None:
            source.keep(held_out(source.keys, self.holdout) == (split == "test"), self.holdout)
        return source

    def _members(self, shards: list[Shard], root: Path) -> list[np.ndarray]:
        """Of each shard the members that are images, at most one for each sample."""
        chosen = []
        for shard in shards:
            wanted = [e == self.image_key if self.image_key else e in EXTENSIONS for e in shard.extensions]
            hits = np.flatnonzero(np.array(wanted, bool)[shard.extension])
            sample = np.searchsorted(shard.first, hits, side="right") - 1
            chosen.append(hits[np.unique(sample, return_index=True)[1]])
        if not sum(map(len, chosen)):
            there = sorted({e for shard in shards for e in shard.extensions})
            seen = nearest(self.image_key, there) if self.image_key else f"Extensions there: {', '.join(there)}."
            raise UserError(f"No sample below {root} has a member ending in "
                            f".{self.image_key or ', .'.join(EXTENSIONS)}: data.image_key names the extension of the "
                            f"image. {seen}")  # fmt: skip
        return chosen


class Samples(Source):
    """One image member of each sample: (shard, offset, size) and the sample's key."""

    def __init__(self, root: Path, files: list[Path], shards: list[Shard], members: list[np.ndarray], split: str):
        self.root, self.files, self.split = root, files, split
        self.stamps = [shard.stamp for shard in shards]
        samples = [np.searchsorted(s.first, m, side="right") - 1 for s, m in zip(shards, members, strict=True)]
        self.left_out = sum(len(s.keys) for s in shards) - sum(map(len, members))
        self.shard = np.repeat(np.arange(len(shards), dtype=np.int32), [len(m) for m in members])
        self.offset = np.concatenate([s.offset[m] for s, m in zip(shards, members, strict=True)])
        self.size = np.concatenate([s.size[m] for s, m in zip(shards, members, strict=True)])
        self.labels = np.concatenate([s.labels[i] for s, i in zip(shards, samples, strict=True)])
        self.keys = Names.of(s.keys[j] for s, i in zip(shards, samples, strict=True) for j in i.tolist())

    def keep(self, chosen: np.ndarray, holdout: float) -> None:
        """Keep the samples at `chosen` (bool [n]) alone."""
        if not chosen.any():
            raise UserError(f"The {self.split} split of {self.root} is empty: {len(self)} samples, "
                            f"data.holdout={holdout}.")  # fmt: skip
        self.shard, self.offset, self.size = self.shard[chosen], self.offset[chosen], self.size[chosen]
        self.labels, self.keys = self.labels[chosen], self.keys.take(chosen)

    def image(self, i: int) -> bytes:
        shard, size = int(self.shard[i]), int(self.size[i])
        check_bytes(size)
        key = self.files[shard], self.stamps[shard]
        return _open_files(key, lambda: _File(*key)).read(size, int(self.offset[i]))

    def name(self, i: int) -> str:
        return f"{self.files[self.shard[i]].relative_to(self.root)}/{os.fsdecode(self.keys[i])}"

    def where(self, i: int) -> str:
        return f"{self.files[self.shard[i]]}, sample '{os.fsdecode(self.keys[i])}'"

    def describe(self) -> str:
        left = f", {self.left_out} samples without an image left out" if self.left_out else ""
        return (f"tar {self.root}: {len(self)} samples in {len(self.files)} shards ({self.split}), "
                f"{label_phrase(self)}{left}")  # fmt: skip


class _File(Descriptor):
    """An open shard."""

    def __init__(self, path: Path, stamp: tuple[int, int]):
        super().__init__(path)
        self.stamp = stamp

    def read(self, size: int, offset: int) -> bytes:
        status = os.fstat(self.number)  # each time: a shard may be written anew in place
        if (status.st_size, status.st_mtime_ns) != self.stamp:
            raise OSError("the shard changed after it was indexed; start again to index it anew")
        data = os.pread(self.number, size, offset)
        if len(data) != size:
            raise OSError(f"{len(data)} bytes of {size} could be read")
        return data


_open_files = OpenFiles(OPEN_FILES)  # one for the process: several splits read the same shards
