"""Volumes [d, h, w, c]: cut out of larger ones by the host, turned, mirrored and rescaled on the device."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Array

from mae_jax.augment import volume
from mae_jax.core.keys import Context
from mae_jax.data.views import HostLeaf
from mae_jax.data.volume_crop import VolumeCrop
from mae_jax.methods.base import Leaf
from mae_jax.modalities.base import Modality


@dataclasses.dataclass(frozen=True, kw_only=True)
class Volume(Modality):
    """Volumes; by default nothing happens to them.

    Attributes:
      crop: cut volumes out of larger ones; share of crops about a voxel that is not 0. None: as they are.
      flip: probability, along each axis.
      turn: probability of 1, 2 or 3 quarter turns in the plane of the first two axes.
      scale: (s, probability): intensities times 1 + U(-s, s).
      shift: (s, probability): intensities plus U(-s, s).
    """

    kind: ClassVar[str] = "volume"
    kept: ClassVar[tuple[str, ...]] = ("crop",)

    crop: float | None = None
    flip: float = 0.0
    turn: float = 0.0
    scale: tuple[float, float] = (0.0, 0.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def check(self, name: str, leaf: Leaf) -> None:
        self.probability("flip", "turn")
        if not 0 <= (self.crop or 0.0) <= 1:
            raise self.wrong("crop", "a share of crops in [0, 1], or None for no crop, expected")
        for key, (strength, p) in (("scale", self.scale), ("shift", self.shift)):
            if strength < 0 or not 0 <= p <= 1:
                raise self.wrong(key, "(a strength of at least 0, a probability) expected")
        if self.turn and leaf.shape[0] != leaf.shape[1]:
            raise self.wrong(
                "turn",
                f"turns the first two axes into each other, but the method reads volumes of {leaf.shape[0]} x "
                f"{leaf.shape[1]}. Make them equal, or leave the turns out",
            )

    def host(self, name: str, leaf: Leaf, train: bool, stream: int, view: int = 0) -> HostLeaf:
        if self.crop is None:
            return super().host(name, leaf, train, stream)
        return VolumeCrop(leaf.shape, leaf.dtype, self.crop if train else None, stream)

    def device(self, name: str, leaf: Leaf, batch: Mapping[str, Array], ctx: Context | None) -> Array:
        changes = volume.Changes(self.flip, self.turn, self.scale, self.shift)
        if ctx is None or changes == volume.Changes():
            return batch[name]
        return volume.change(batch[name], ctx, name, changes)
