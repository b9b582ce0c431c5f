"""From one record to what a method reads of it: images through the host's augmentation, everything else as it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.data.transforms import HostAugment

Draw = Callable[[int], np.random.Generator]  # number of a stream -> its generator, fresh at every call


@dataclass(frozen=True)
class View:
    """The record's image through `augment`. Views of one `stream` share their draws: the same crop at two sizes."""

    augment: HostAugment
    stream: int = 0

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray:
        if "image" not in record:
            raise missing(name, record)
        return self.augment(record, draw(self.stream))


@dataclass(frozen=True)
class Raw:
    """The record's array of the leaf's own name, checked for its shape."""

    shape: tuple[int, ...]
    dtype: str

    def __call__(self, name: str, record: Mapping[str, Any], draw: Draw) -> np.ndarray:
        if name not in record:
            raise missing(name, record)
        array = np.asarray(record[name])
        if array.shape != self.shape:
            raise UserError(
                f"the data give '{name}' of shape {array.shape}, the method reads {self.shape}: set the method's "
                f"sizes (method.*) or the source's (data.*) so that they agree."
            )
        return array.astype(self.dtype, copy=False)


# What makes a leaf of a record: an array, or arrays by suffixes of the leaf's name (View, Raw, Canvas, VolumeCrop). One
# that has a method `fill(name, record, draw, out)` can write into arrays that are there already (Canvas).
HostLeaf = Callable[[str, Mapping[str, Any], Draw], np.ndarray | dict[str, np.ndarray]]


@dataclass(frozen=True)
class Views:
    """What the host makes of one record: an array for every leaf."""

    leaves: Mapping[str, HostLeaf]

    def __call__(self, record: Mapping[str, Any], draw: Draw) -> dict[str, np.ndarray]:
        """Raises BadImage, and UserError where the source does not give what the method reads."""
        out: dict[str, np.ndarray] = {}
        for name, leaf in self.leaves.items():
            made = leaf(name, record, draw)
            out |= {name + suffix: x for suffix, x in made.items()} if isinstance(made, dict) else {name: made}
        return out

    def fill(self, record: Mapping[str, Any], draw: Draw, rows: Mapping[str, np.ndarray]) -> None:
        """Write what a call would give into `rows`, the arrays of one sample. Raises: as a call."""
        for name, leaf in self.leaves.items():
            fill = getattr(leaf, "fill", None)  # asking the protocol takes as long as reading a file
            if fill is not None:
                fill(name, record, draw, {x.removeprefix(name): row for x, row in rows.items() if _of(x, name)})
                continue
            made = leaf(name, record, draw)
            for suffix, x in (made if isinstance(made, dict) else {"": made}).items():
                row = rows[name + suffix]
                if x.shape != row.shape:
                    raise ValueError(f"'{name}{suffix}' has shape {x.shape} where {row.shape} was expected")
                row[...] = x

    def changed(self, **fields: Any) -> "Views":
        """The same with other fields of the images' `HostAugment`."""
        return self._each(lambda _, augment: replace(augment, **fields))

    def plain(self) -> "Views":
        """The same without anything random."""
        return self._each(lambda _, augment: replace(augment, crop_scale=None, flip=False, pad=0, randaugment=None))

    def of_dtypes(self, example: Mapping[str, np.ndarray]) -> "Views":
        """The same with the images' dtypes settled, where they were left open, as they are in `example`."""
        return self._each(lambda name, augment: replace(augment, dtype=augment.dtype or example[name].dtype.name))

    def _each(self, change: Callable[[str, HostAugment], HostAugment]) -> "Views":
        return Views({
            name: replace(leaf, augment=change(name, leaf.augment)) if isinstance(leaf, View) else leaf
            for name, leaf in self.leaves.items()
        })  # fmt: skip


def _of(array: str, leaf: str) -> bool:
    return array == leaf or array.startswith(leaf + ".")


def missing(name: str, record: Mapping[str, Any]) -> UserError:
    return UserError(
        f"the method reads '{name}', but the data's records hold {', '.join(map(repr, record))}: take another "
        f"data.source. `mae_jax list` shows them."
    )
