"""Take the visible tokens, and put them back among the hidden: the only place that indexes tokens.

Each is the other's transpose, so both directions of both are gathers. The scatters that autodiff would make of
them are slow on every accelerator, not deterministic on a GPU, and cost collectives under a sharded batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.core.types import Mask

SCOPE = "masking"  # in the names of what masking, taking and restoring compute in a compiled program


@jax.named_scope(SCOPE)
def take(x: Float[Array, "b n d"], mask: Mask) -> Float[Array, "b k d"]:
    """The visible tokens, in the encoder's order."""
    return _take(x, mask.keep_ids, mask.restore_ids)


@jax.named_scope(SCOPE)
def restore(visible: Float[Array, "b k d"], mask: Mask, fill: Float[Array, "*b 1 d"]) -> Float[Array, "b n d"]:
    """All n tokens in raster order: the visible ones where they were, `fill` (the mask token) where hidden."""
    placed = _put(visible, mask.keep_ids, mask.restore_ids)
    return jnp.where(mask.hidden[:, :, None], fill, placed)


@jax.named_scope(SCOPE)
def unshuffle(x: Float[Array, "b n d"], mask: Mask) -> Float[Array, "b n d"]:
    """Tokens that lie as [visible, hidden], back at their places."""
    return _take(x, mask.restore_ids, jnp.concatenate([mask.keep_ids, mask.drop_ids], axis=1))


def gather(x: Float[Array, "b n d"], ids: Int[Array, "b k"]) -> Float[Array, "b k d"]:
    """x[i, ids[i]] for any ids, repeated ones too."""
    return jnp.take_along_axis(x, ids[:, :, None], axis=1, mode="clip")


@jax.custom_vjp
@jax.named_scope(SCOPE)
def _take(x: Array, keep_ids: Array, restore_ids: Array) -> Array:
    return gather(x, keep_ids)


@jax.custom_vjp
@jax.named_scope(SCOPE)
def _put(visible: Array, keep_ids: Array, restore_ids: Array) -> Array:
    k = keep_ids.shape[1]
    placed = gather(visible, jnp.minimum(restore_ids, k - 1))
    return jnp.where((restore_ids < k)[:, :, None], placed, jnp.zeros((), visible.dtype))


def _take_forward(x: Array, keep_ids: Array, restore_ids: Array) -> tuple[Array, tuple[Array, Array]]:
    return _take(x, keep_ids, restore_ids), (keep_ids, restore_ids)


def _put_forward(x: Array, keep_ids: Array, restore_ids: Array) -> tuple[Array, tuple[Array, Array]]:
    return _put(x, keep_ids, restore_ids), (keep_ids, restore_ids)


_take.defvjp(_take_forward, lambda ids, g: (_put(g, *ids), None, None))
_put.defvjp(_put_forward, lambda ids, g: (_take(g, *ids), None, None))
