"""Masks of clips, as scores per token of a grid of `slots` x `places`, tokens slot by slot (VideoMAE, Sec. 3.3)."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.masking.select import invert

Tube = Literal["tube", "slot", "random", "frame"]


def tube_keep(kind: Tube, ratio: float, slots: int, places: int) -> int:
    """How many of slots x places tokens stay visible.

    "tube" and "slot" hide int(ratio places) of each slot, "random" int(ratio slots places) of all, "frame"
    int(ratio slots) whole slots. (Truncated where they hide: MAE truncates where it keeps.)

    Raises:
      UserError: a ratio that hides nothing or leaves nothing visible.
    """
    of, each, what = {
        "random": (slots * places, 1, "tokens"), "frame": (slots, places, "time slots"),
    }.get(kind, (places, slots, "patches of a time slot"))  # fmt: skip
    hidden = int(ratio * of)
    if not 0 < hidden < of:
        raise UserError(
            f"method.mask_ratio={ratio} hides {hidden} of {of} {what}; at least one must be hidden and one visible: "
            f"{1 / of:.4f} to {1 - 1 / of:.4f}."
        )
    return (of - hidden) * each


def tube_scores(
    ctx: Context, kind: Tube, batch: int, slots: int, places: int, name: str = "mask"
) -> Float[Array, "{batch} {slots*places}"]:
    """Scores of which the lowest `tube_keep(...)` are visible.

    "tube": the same places in every slot, so that nothing is found by looking into other times; "slot": the same number
    in every slot, drawn for each anew; "random": any tokens; "frame": whole slots.
    """
    if kind == "random":
        return ctx.uniform(name, (batch, slots * places))
    if kind == "slot":
        rank = _rank(ctx.uniform(name, (batch, slots, places)).reshape(batch * slots, places))
        return rank.reshape(batch, slots * places)
    if kind == "frame":
        return jnp.repeat(_rank(ctx.uniform(name, (batch, slots))), places, axis=1)
    return jnp.tile(_rank(ctx.uniform(name, (batch, places))), (1, slots))


def _rank(noise: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """Each number's place in its row's order: no two are equal, so that a count of tubes is a count of tokens."""
    return invert(jnp.argsort(noise, axis=1, stable=True)).astype(jnp.float32)
