"""From scores to a Mask: the one selection that every masking shares.

A masking is a score per token; the tokens with the lowest scores are kept.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.core.errors import UserError
from mae_jax.core.types import Mask


def keep_count(n: int, ratio: float) -> int:
    """How many of `n` tokens stay visible: int(n (1 - ratio)), truncated (MAE, Sec. 3).

    Computed in float64 on the host: in float32 the product truncates to another count for many n.

    Raises:
      UserError: a ratio outside [0, 1), or one that leaves no visible token or hides none.
    """
    if not 0.0 <= ratio < 1.0:
        raise UserError(f"mask ratio {ratio} is not in [0, 1): it is the share of tokens that are hidden.")
    keep = int(n * (1 - ratio))
    if keep == 0:
        raise UserError(
            f"mask ratio {ratio} leaves no visible token of {n} tokens; at most {1 - 1 / n:.4f} keeps one. "
            f"Lower the ratio, or use smaller patches."
        )
    return keep


def hide_count(n: int, ratio: float) -> int:
    """How many of `n` tokens are hidden: int(n ratio), where `keep_count` truncates what is left (Point-MAE).

    Raises:
      UserError: a ratio that hides none, or all.
    """
    hidden = int(n * ratio) if 0.0 <= ratio < 1.0 else 0
    if not 0 < hidden < n:
        raise UserError(
            f"method.mask_ratio={ratio} hides {hidden} of {n} tokens: a ratio below 1 that hides at least one of them, "
            f"so at least {1 / n:.4f}, and leaves at least one visible."
        )
    return hidden


def check_hides(ratio: float, n: int) -> None:
    """Raise UserError where method.mask_ratio hides none of n patches, or leaves none visible."""
    if keep_count(n, ratio) == n:
        raise UserError(
            f"method.mask_ratio={ratio} hides none of {n} patches, so there is nothing to predict; at least "
            f"{1 / n:.4f} hides one."
        )


@jax.named_scope("masking")
def select(
    scores: Float[Array, "b n"], keep: int, order: Literal["score", "raster"] = "score", *, start: int = 0
) -> Mask:
    """Keep the `keep` lowest scores of each sample.

    Args:
      scores: one number per token; ties are broken by position (stable sort).
      keep: number of visible tokens, a static count.
      order: in which order the encoder sees them: by score, that is shuffled (MAE), or by position (CAE, VideoMAE).
      start: how many of the lowest scores to pass over first: a second, disjoint view of the same draw (LUT).
    """
    n = scores.shape[1]
    if not 0 < keep <= n - start:
        raise ValueError(f"cannot keep {keep} of {n} tokens, passing over {start}")
    ids = jnp.argsort(scores, axis=1, stable=True).astype(jnp.int32)
    keep_ids = ids[:, start : start + keep]
    drop_ids = jnp.concatenate([ids[:, :start], ids[:, start + keep :]], axis=1) if start else ids[:, keep:]
    if order == "raster":
        keep_ids, drop_ids = jnp.sort(keep_ids, axis=1), jnp.sort(drop_ids, axis=1)
    return from_ids(keep_ids, drop_ids)


def from_ids(keep_ids: Int[Array, "b k"], drop_ids: Int[Array, "b h"]) -> Mask:
    """The Mask of a given split; the two together must be a permutation of all positions."""
    # Sorting (position, place) pairs inverts the permutation without a scatter.
    restore = invert(jnp.concatenate([keep_ids, drop_ids], axis=1))
    return Mask(keep_ids, drop_ids, restore, restore >= keep_ids.shape[1])


def complement(mask: Mask) -> Mask:
    """The Mask that hides what `mask` shows and shows what it hides."""
    return from_ids(mask.drop_ids, mask.keep_ids)


def invert(ids: Int[Array, "b n"]) -> Int[Array, "b n"]:
    """The inverse of each row's permutation, by a sort rather than a scatter (which would cost a collective)."""
    return jnp.argsort(ids, axis=1).astype(jnp.int32)


def nothing_hidden(batch: int, n: int) -> Mask:
    """The Mask under which everything is visible, in raster order."""
    ids = jax.lax.broadcasted_iota(jnp.int32, (batch, n), 1)
    return from_ids(ids, ids[:, :0])
