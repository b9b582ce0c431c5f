"""The contract: what a paper's file must say. Training, evaluation and parity know methods only through this."""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from jaxtyping import Array, Float

from mae_jax.core.keys import Context
from mae_jax.core.types import Aux, Batch, Ema, Features, Params, Stats
from mae_jax.nets.compute import Compute

Rest = Mapping[str, Any]  # {"stats": Stats, "ema": Ema, "frozen": Params}: what a loss reads but never differentiates


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array that a batch must hold: its shape per sample and dtype as `Method.loss` sees them.

    Leaves named "image" or "image_..." are images: the host crops and resizes them to their shape, the device
    normalises them. All others are taken from the source's records as they are.

    Attributes:
      batched: False: not split over devices; every device holds the one sample there is (a large graph).
      crop_of: an image leaf whose random crop and flip this one repeats, at its own size; "": draws its own.
      resample: "bicubic" or "lanczos".
      unit: this image stays in [0, 1] instead of being normalised by augment.mean and augment.std.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    batched: bool = True
    crop_of: str = ""
    resample: str = "bicubic"
    unit: bool = False


@dataclasses.dataclass(frozen=True)
class FrozenSpec:
    """A frozen network that a method reads, found at `rest["frozen"][name]`.

    Attributes:
      family: a module of mae_jax/teachers.
      file: a path; "bundled/NAME" is a file that comes with the package.
      sha256: of the file; "" takes any, and the one found is recorded.
      network: hashable description of its sizes (a module of nets/), from which its arrays' shapes follow.
    """

    family: str
    file: str
    sha256: str = ""
    network: Any = None


class Rule(NamedTuple):
    """How a parameter is treated whose name the package does not know (`Method.rules`).

    Attributes:
      lies: "whole", "split", "column", "row" or "vector": what of it fsdp and tensor split (core/mesh.py: RULES).
      decay: multiplier of optim.weight_decay.
    """

    lies: str = "whole"
    decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one sample costs, by closed formula.

    Attributes:
      forward: FLOPs of what is differentiated, multiply-add = 2; backward costs twice that.
      tokens: patches per sample. visible: how many of them the encoder reads.
      once: FLOPs of what has no backward pass: teachers, tokenizers, targets under a stop-gradient.
    """

    forward: float
    tokens: int
    visible: int
    once: float = 0.0

    @property
    def step(self) -> float:
        """FLOPs of a training step."""
        return 3 * self.forward + self.once


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

    @property
    def rules(self) -> Mapping[str, Rule]:
        """{regular expression over parameter paths: Rule} for names of its own, tried after those that all know."""
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
        """{caption: pictures} from a loss's `Aux.seen`, in the order in which they are drawn; {}: none.

        "original", "masked", "reconstruction" and "pasted" where they make sense. Those with the input's channels lie
        in its space (normalised pixels); others, of 1 or 3 channels, in [0, 1].
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


def own_rules(method: Method, what: Literal["lies", "decay"]) -> tuple[tuple[str, Any], ...]:
    """`Method.rules` as more of the rules of core/mesh.py ("lies") or of optim.decay_rules ("decay")."""
    return tuple((pattern, getattr(rule, what)) for pattern, rule in method.rules.items())


def config_fields(cls: type) -> dict[str, dataclasses.Field]:
    """The fields of a dataclass that are configuration keys."""
    return {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("config", True)}
