"""Exponential moving averages of parameters and statistics: how a teacher follows its student."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mae_jax.core.ramps import cosine


def follow(teacher: Any, student: Any, momentum: Float[Array, ""] | float) -> Any:
    """momentum * teacher + (1 - momentum) * student, leaf by leaf: 1 keeps the teacher, 0 copies the student."""
    return jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, teacher, student)


def cosine_momentum(
    step: Int[Array, ""] | Float[Array, ""] | int, steps: int, start: float, end: float = 1.0
) -> Float[Array, ""]:
    """From `start` at step 0 to `end` at `steps` along half a cosine (BYOL, Sec. 3.2; DINO)."""
    return cosine(start, end, step / max(steps, 1))


def linear_momentum(
    step: Int[Array, ""] | Float[Array, ""] | int, steps: int, start: float, end: float
) -> Float[Array, ""]:
    """From `start` at step 0 to `end` at `steps` along a line, `end` from there on (data2vec)."""
    return start + (end - start) * jnp.clip(step / max(steps, 1), 0.0, 1.0)
