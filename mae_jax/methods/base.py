"""The contract: what a paper's file must say. Training, evaluation and parity know methods only through this."""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from jaxtyping import Array, Float

from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Ema, Features, Params, Stats
from mae_jax.nets.compute import Compute

Rest = Mapping[str, Any]  # {"stats": Stats, "ema": Ema, "frozen": Params}: what a loss reads but never differentiates


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array that a batch must hold: its shape per sample and dtype as `Method.loss` sees them."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    batched: bool = True


@dataclasses.dataclass(frozen=True)
class FrozenSpec:
    """A frozen network that a method reads: which family, from which file, with which sha256."""

    family: str
    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one sample costs, by closed formula.

    Attributes:
      forward: FLOPs of the loss, multiply-add = 2. A training step is three times that.
      tokens: patches per sample. visible: how many of them the encoder reads.
    """

    forward: float
    tokens: int
    visible: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One published system. A frozen dataclass: its fields are the keys of `config.method`.

    The four kinds of arrays have fixed rights: params (gradient, optimizer, checkpoint), stats (returned by the
    loss), ema (only `evolve` writes), frozen (never saved; recorded by path and hash).
    """

    name: ClassVar[str]
    compute: Compute = dataclasses.field(default=Compute(), metadata={"config": False})

    # What the method's batches hold and how its samples hang together ---------------------------------------------

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        """What every batch must hold."""
        raise NotImplementedError

    @property
    def couples(self) -> tuple[str, ...]:
        """What ties samples of a batch together: "bn", "contrast"; nothing by default."""
        return ()

    @property
    def dead(self) -> Mapping[str, str]:
        """{regular expression over parameter paths: why they get no gradient}."""
        return {}

    def check(self) -> None:
        """Raise UserError where the fields do not fit each other. Called before any device is touched."""

    def cost(self) -> Cost | None:
        """What one sample costs, or None where no formula is known."""
        return None

    # The method ---------------------------------------------------------------------------------------------------

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        """Fresh parameters and statistics."""
        raise NotImplementedError

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        """The training loss of a batch. Pure; random only through `ctx`."""
        raise NotImplementedError

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        """Features of a batch without masking: all that evaluation and fine-tuning use."""
        raise NotImplementedError

    def pictures(self, seen: Mapping[str, Array], batch: Batch) -> dict[str, Float[Array, "b h w c"]]:
        """{"original", "masked", "reconstruction", "pasted"} from a loss's `Aux.seen`; {} where nothing is drawn.

        In the space of the input that the loss got (normalised pixels).
        """
        return {}

    # Teachers and schedules; the defaults say "none" ----------------------------------------------------------------

    def start_ema(self, params: Params, stats: Stats) -> Ema:
        """The averages at step 0."""
        return {}

    def evolve(self, ema: Ema, params: Params, stats: Stats, ctx: Context) -> Ema:
        """The averages after an optimizer step."""
        return ema

    def frozen(self) -> Mapping[str, FrozenSpec]:
        """Frozen networks by the name under which `rest["frozen"]` holds them."""
        return {}

    def plan(self, step: int) -> Hashable:
        """Static choices of a step (token counts, input size), made on the host; each value compiles once."""
        return None


def config_fields(cls: type) -> dict[str, dataclasses.Field]:
    """The fields of a dataclass that are configuration keys."""
    return {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("config", True)}
