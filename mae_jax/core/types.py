"""The objects that cross the borders between rooms: masks, features, and what a loss returns besides its value."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Bool, Float, Int

Params = dict[str, Any]  # nested plain dicts of arrays: receive gradients, are saved
Stats = dict[str, Any]  # batch-norm statistics and the like: returned by the loss, are saved
Ema = dict[str, Any]  # teachers and averages: only `Method.evolve` writes them, are saved
Batch = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Which tokens of each sample are hidden. True (1) means hidden, everywhere in this project.

    Attributes:
      keep_ids: positions of the k visible tokens, in the order in which the encoder sees them.
      drop_ids: positions of the n - k hidden tokens, in the order of their score (or raster).
      restore_ids: for each position, its place in concat(keep_ids, drop_ids): the inverse permutation.
      hidden: True where the token at that position is hidden.
    """

    keep_ids: Int[Array, "b k"]
    drop_ids: Int[Array, "b h"]
    restore_ids: Int[Array, "b n"]
    hidden: Bool[Array, "b n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Features:
    """What an encoder says of a batch: the one surface that evaluation and fine-tuning use.

    Attributes:
      tokens: patch tokens before the last norm, in raster order.
      normed: patch tokens after the last norm.
      prefix: class and register tokens after the last norm; p may be 0.
      grid: how the n tokens lie, for example (rows, columns).
      valid: which tokens are real (None: all).
      levels: a pyramid, coarse to fine, for convolutional and hierarchical encoders.
      parts: named streams, for encoders of several sensors.
      hidden: prefix and patch tokens after every block, before any last norm; what nobody reads costs nothing.
      stats: statistics after this call (batch-norm in training), or None.
    """

    tokens: Float[Array, "b n d"]
    normed: Float[Array, "b n d"]
    prefix: Float[Array, "b p d"]
    grid: tuple[int, ...] = dataclasses.field(metadata={"static": True}, default=())
    valid: Bool[Array, "b n"] | None = None
    levels: tuple[Array, ...] = ()
    parts: dict[str, Array] = dataclasses.field(default_factory=dict)
    hidden: tuple[Array, ...] = ()
    stats: Stats | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Aux:
    """What `Method.loss` returns besides the loss.

    Attributes:
      stats: the statistics after this batch.
      metrics: named scalars to log, each averaged over microbatches with `weight`.
      weight: how much this (micro)batch counts: the step returns sum(weight * gradient) / sum(weight).
      seen: inner tensors for pictures and parity; removed by the compiler where nobody reads them.
    """

    stats: Stats
    metrics: dict[str, Array] = dataclasses.field(default_factory=dict)
    weight: Float[Array, ""] | float = 1.0
    seen: dict[str, Array] = dataclasses.field(default_factory=dict)
