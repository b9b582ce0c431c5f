"""What is going to be written, decided from settings, the source and a sample of it before the first shard."""

import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage
from mae_jax.data.order import permutation
from mae_jax.data.prepare.images import Format, natural
from mae_jax.data.sources import Source, make_source
from mae_jax.data.sources.base import split_name

SAMPLE = 200  # records of each split by which sizes and times are estimated
MB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """What the user asks for. `source`, `fields`: as in a config's data section."""

    source: str
    fields: Mapping[str, Any]
    target: Path
    splits: tuple[str, ...] = ("train", "test")
    name: str = ""
    kind: str = "keep"
    short_side: int = 0
    quality: int = 90
    channels: int | None = None
    shard_mb: float = 256
    seed: int = 0

    def open(self) -> dict[str, Source]:
        """The splits, checked. Raises UserError."""
        Format(self.kind, self.short_side, self.quality).check()
        if self.shard_mb <= 0 or not 0 <= self.seed < 2**63:
            raise UserError(f"--shard-mb {self.shard_mb:g} and --seed {self.seed}: a positive size and "
                            "0 <= seed < 2^63 expected.")  # fmt: skip
        names = [split_name(s) for s in self.splits]
        if not names or len(set(names)) < len(names):
            raise UserError(f"--splits {','.join(self.splits)}: 'train', 'test', or both expected, each once.")
        self._check_place()
        sources = {name: make_source(self.source, name, self.fields) for name in names}
        for name, source in sources.items():
            if source.labels.ndim != 1:
                raise UserError(f"The labels of {source.describe()} have shape {source.labels.shape}: one for each "
                                "image expected.")  # fmt: skip
            first = sources[names[0]]
            if source.classes != first.classes:
                raise UserError(f"The splits {names[0]} and {name} have different classes ({len(first.classes)} and "
                                f"{len(source.classes)}): prepare them one by one (--splits {name}).")  # fmt: skip
        return sources

    def _check_place(self) -> None:
        """The target must lie outside the source, which this run reads, and hold nothing else."""
        path = self.fields.get("path")
        if isinstance(path, str) and path:
            read, written = Path(path).expanduser().resolve(), self.target.resolve()
            if written == read or read in written.parents or written in read.parents:
                raise UserError(f"{self.target} and the data in {path} lie in one another: write somewhere else, so "
                                "that what is read and what is written stay apart.")  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """What a restart must have in common with the run that it goes on with."""
        fields = dict(self.fields)
        if isinstance(fields.get("path"), str):
            fields["path"] = str(Path(fields["path"]).expanduser().absolute())
        chosen = {
            "source": self.source,
            "fields": fields,
            "splits": [split_name(s) for s in self.splits],
            "name": self.data_name(),
            "format": self.kind,
            "short_side": self.short_side,
            "quality": self.quality,
            "channels": self.channels,
            "shard_mb": self.shard_mb,
            "seed": self.seed,
        }
        return json.loads(json.dumps(chosen, default=str))

    def data_name(self) -> str:
        """--name, or what the target is called (above a version), as TFDS spells names."""
        target = self.target.absolute()
        name = self.name or (target.parent if re.fullmatch(r"\d+\.\d+\.\d+", target.name) else target).name
        clean = re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_")
        if not clean or (self.name and clean != self.name):
            raise UserError(f"--name {name}: lower-case letters, digits and _ expected (as {clean or 'my_images'}).")
        return clean if not clean[0].isdigit() else f"d{clean}"


@dataclass(frozen=True)
class Plan:
    """What is written, to the byte. `shards`: of each split, their number. `fingerprints`: of each split's source."""

    name: str
    seed: int
    format: Format
    labelled: bool
    classes: tuple[str, ...]
    records: Mapping[str, int]
    shards: Mapping[str, int]
    fingerprints: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        return cls(**(dict(data) | {"format": Format(**data["format"]), "classes": tuple(data["classes"])}))

    def file(self, split: str, shard: int) -> str:
        """A shard's name, by TFDS's rule."""
        return f"{self.name}-{split}.array_record-{shard:05d}-of-{self.shards[split]:05d}"

    def order(self, split: str, shard: int) -> np.ndarray:
        """The numbers of a shard's records: its part of one random order of the split."""
        n, shards = self.records[split], self.shards[split]
        return stored_order(self.seed, n)[n * shard // shards : n * (shard + 1) // shards]


@dataclass(frozen=True)
class Estimate:
    """From a sample: bytes of a whole run, seconds of one process, records looked at, and those that failed."""

    size: float
    seconds: float
    sampled: int
    failed: tuple[str, ...]


def stored_order(seed: int, length: int) -> np.ndarray:
    """The order in which the records of a split of `length` are written."""
    return permutation(seed, length, length)


def make_plan(
    settings: Settings, sources: Mapping[str, Source], fingerprints: Mapping[str, Any]
) -> tuple[Plan, Estimate]:
    """Look at up to SAMPLE records of each split. Raises UserError where none of them can be used."""
    labelled = any((s.labels >= 0).any() for s in sources.values())
    form, size, seconds, sampled, failed = None, 0.0, 0.0, 0, []
    shards = {}
    for split, source in sources.items():
        begun, written, seen = time.monotonic(), [], stored_order(settings.seed, len(source))[:SAMPLE]
        for i in map(int, seen):
            try:
                record = source[i]
                if form is None:
                    form = _format(settings, record)
                written.append(len(form(record, labelled)[0]))
            except (BadImage, OSError) as error:
                failed.append(f"{source.where(i)}: {error}")
        if not written or form is None:
            raise UserError(f"None of {len(seen)} records of {source.describe()} can be used. The last: {failed[-1]}")
        per_record = (time.monotonic() - begun) / len(seen)
        total = len(source) * float(np.mean(written))
        size, seconds, sampled = size + total, seconds + len(source) * per_record, sampled + len(seen)
        shards[split] = min(len(source), max(1, -(-int(total) // max(1, int(settings.shard_mb * MB)))))
    assert form is not None
    classes = next(iter(sources.values())).classes
    counts = {split: len(source) for split, source in sources.items()}
    plan = Plan(settings.data_name(), settings.seed, form, labelled, classes, counts, shards, dict(fingerprints))
    return plan, Estimate(size, seconds, sampled, tuple(failed))


def _format(settings: Settings, record: Mapping[str, Any]) -> Format:
    data = record.get("image", b"")
    channels, dtype = natural(data, settings.channels) if "image" in record else (3, "uint8")
    form = Format(settings.kind, settings.short_side, settings.quality, channels, dtype)
    form.check()
    return form


def free_space(target: Path) -> int:
    """Bytes free where `target` is or will be."""
    there = target.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def difference(old: Any, new: Any, name: str = "") -> str | None:
    """The first place at which two pieces of JSON differ, as "name: old, now new"; None if they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = ((k, old.get(k), new.get(k)) for k in sorted(set(old) | set(new)))
        found = (difference(o, n, f"{name}.{k}".lstrip(".")) for k, o, n in pairs)
        return next((f for f in found if f), None)
    return None if old == new else f"{name}: {old!r}, now {new!r}"


def check_target(target: Path, known: Sequence[str]) -> None:
    """The target must be writable, and hold nothing but what `prepare` wrote. Raises UserError."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        probe = target / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{target} cannot be written to: {error}.") from error
    foreign = [p.name for p in target.iterdir() if p.name not in known]
    if foreign and not (target / "manifest.json").is_file():
        raise UserError(f"{target} holds {sorted(foreign)[0]} and is no directory that `mae_jax prepare` began: give "
                        "an empty or a new one.")  # fmt: skip
