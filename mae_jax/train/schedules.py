"""Learning rates per step. The step counter is the train state's, never an optimizer's own."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Schedule = Callable[[Int[Array, ""] | int | float], Float[Array, ""]]


def warmup_cosine(peak: float, warmup: int | float, total: int | float, end: float = 0.0) -> Schedule:
    """Linear from 0 over `warmup`, then half a cosine down to `end` at `total` (facebookresearch/mae, lr_sched).

    The unit is the caller's: steps, or (fractional) epochs.
    """

    def rate(step):
        progress = (step - warmup) / max(total - warmup, 1e-9)
        cosine = end + (peak - end) * 0.5 * (1.0 + jnp.cos(math.pi * jnp.clip(progress, 0.0, 1.0)))
        return jnp.where(step < warmup, peak * step / max(warmup, 1e-9), cosine)

    return rate


def scaled(base: float, batch: int) -> float:
    """The linear scaling rule: lr = base * batch / 256, the whole (accumulated) batch (Goyal et al., 2017)."""
    return base * batch / 256
