"""What a kind of leaf goes through between a source's record and the loss; one file of this room per kind."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Array

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.data.views import HostLeaf, Raw
from mae_jax.methods.base import Leaf
from mae_jax.schema import Augment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Modality:
    """A kind of leaf. Its fields are keys of `config.augment`, with the kind in front ("augment.volume_flip").

    Leaves named KIND or KIND_... are of the kind; images have a path of their own (train/inputs.py). The defaults
    here take the record's array of the leaf's name as it is.

    Attributes:
      augment: the section of the config, for what all kinds share (mean, std, mixup ...).
      heeds: keys of the section, beside its own fields, that do something here; others are refused for it.
      kept: fields that probes and fine-tuning take over from pretraining; the others have their defaults there.
      tuned: fields that have other values where fine-tuning trains (a recipe's or a user's count more).
    """

    kind: ClassVar[str]
    heeds: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[tuple[str, ...]] = ()
    tuned: ClassVar[Mapping[str, Any]] = {}
    augment: Augment = dataclasses.field(default_factory=Augment, metadata={"config": False}, repr=False)

    def check(self, name: str, leaf: Leaf) -> None:
        """Raise UserError where the fields do not fit each other or the leaf. Called before anything is built."""

    def views(self, name: str, leaf: Leaf) -> int:
        """How many views of one record an evaluation votes over (clips x crops); 1: it sees one."""
        return 1

    def host(self, name: str, leaf: Leaf, train: bool, stream: int, view: int = 0) -> HostLeaf:
        """What makes the leaf, or what travels in its place, of a record.

        Args:
          train: False: nothing random.
          stream: the number of the random stream that is the leaf's own.
          view: without `train`: which of `views`.
        """
        return Raw(leaf.shape, leaf.dtype)

    def travels(self, name: str, leaf: Leaf) -> Mapping[str, Leaf]:
        """What `host` gives to the devices in the leaf's place: the leaf, or "NAME.suffix" leaves."""
        return {name: leaf}

    def device(self, name: str, leaf: Leaf, batch: Mapping[str, Array], ctx: Context | None) -> Array:
        """The leaf [b, *leaf.shape] as the loss reads it, of what has travelled. Without a context nothing random."""
        return batch[name]

    def colours(self, leaf: Leaf) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) that bring a picture of the leaf's space back to [0, 1]; empty where it lies there."""
        return (), ()

    def picture(self, leaf: Leaf, x: Array) -> Array | None:
        """Leaves [b, *leaf.shape] as pictures [b, h, w, c] in `colours`' space, for `mae_jax data`; None: none."""
        return None

    def axes(self, leaf: Leaf) -> int:
        """How many axes one sample has that a user gives as an array (`mae_jax.load`)."""
        return len(leaf.shape)

    def given(self, name: str, leaf: Leaf, value: Any) -> dict[str, Any]:
        """The record of a sample as a user gives it: an array of `axes`, a path, bytes. Raises UserError, BadImage."""
        return {name: value}

    @property
    def together(self) -> bool:
        """Whether `device` mixes samples with others of the batch, which then comes whole."""
        return False

    def arrived(self, name: str, leaf: Leaf, batch: Mapping[str, Array]) -> bool:
        """Whether a batch holds all that `device` reads."""
        return set(self.travels(name, leaf)) <= set(batch)

    def probability(self, *keys: str) -> None:
        """Raise UserError unless each of these fields lies in [0, 1]."""
        for key in keys:
            if not 0 <= getattr(self, key) <= 1:
                raise self.wrong(key, "a probability is at least 0 and at most 1")

    def wrong(self, key: str, expected: str) -> UserError:
        """The error for a field: what it is, and what was expected."""
        return UserError(f"augment.{self.kind}_{key}={getattr(self, key)}: {expected}.")
