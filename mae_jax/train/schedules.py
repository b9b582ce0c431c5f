"""Learning rates per step. The step counter is the train state's, never an optimizer's own."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.core.ramps import cosine
from mae_jax.schema import Optim

Schedule = Callable[[Int[Array, ""] | int | float], Float[Array, ""]]


def warmup_cosine(
    peak: float,
    warmup: int | float,
    total: int | float,
    end: float = 0.0,
    *,
    start: float = 0.0,
    last: int = 0,
    warm_last: int = 0,
) -> Schedule:
    """Linear from `start` over `warmup`, then half a cosine down to `end` at `total` (facebookresearch/mae, lr_sched).

    The unit is the caller's: steps, or (fractional) epochs.

    Args:
      last: 1 counts the end in: `end` is reached at step total - 1 (SparK, lr_control).
      warm_last: 1 counts the warm-up's end in: the peak is reached at step warmup - 1, and stays for another one
        (VideoMAE and BEiT: a linspace and a cosine, one after the other).
    """

    def rate(step):
        falling = cosine(peak, end, (step - warmup) / max(total - last - warmup, 1e-9))
        rising = start + (peak - start) * step / max(warmup - warm_last, 1e-9)
        return jnp.where(step < warmup, rising, falling)

    return rate


def warmup_linear(
    peak: float, warmup: int | float, total: int | float, end: float = 0.0, *, start: float = 0.0
) -> Schedule:
    """Linear from `start` over `warmup`, then linear down to `end` at `total` (mmseg: PolyLR of power 1)."""

    def rate(step):
        falling = peak + (end - peak) * jnp.clip((step - warmup) / max(total - warmup, 1e-9), 0.0, 1.0)
        rising = start + (peak - start) * step / max(warmup, 1e-9)
        return jnp.where(step < warmup, rising, falling)

    return rate


def scaled(base: float, batch: int, rule: str = "linear") -> float:
    """The peak rate of a whole (accumulated) batch.

    "linear": base * batch / 256 (Goyal et al., 2017); "sqrt": base * sqrt(batch) / 4, the same at 4096 (LUT); "none".
    """
    return base * {"linear": batch / 256, "sqrt": math.sqrt(batch) / 4, "none": 1.0}[rule]


def learning_rate(optim: Optim, batch: int, steps: int) -> Schedule:
    """The schedule that the optim section describes."""
    peak = scaled(optim.learning_rate, batch, optim.scaling)
    end = peak if optim.schedule == "constant" else max(optim.end_rate, optim.end_share * peak)
    if optim.schedule == "linear":
        return warmup_linear(peak, optim.warmup, steps, end, start=optim.warmup_start * peak)
    last = int(optim.schedule == "cosine_inclusive")
    warm_last = int(optim.schedule == "cosine_linspace")
    start = optim.warmup_start * peak
    return warmup_cosine(peak, optim.warmup, steps, end, start=start, last=last, warm_last=warm_last)


def weight_decay(optim: Optim, steps: int) -> Schedule:
    """Constant, or half a cosine from the first step to the last (DINO; SparK)."""
    if optim.weight_decay_end is None:
        return lambda step: jnp.asarray(optim.weight_decay, jnp.float32)
    start, end = optim.weight_decay, optim.weight_decay_end
    return lambda step: cosine(start, end, step / max(steps - 1, 1))
