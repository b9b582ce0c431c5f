"""LAMB (You et al., 2019, arXiv 1904.00962) in the form that timm gives it, which convolutional recipes use."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mae_jax.core import tree
from mae_jax.train.schedules import Schedule


class LambState(NamedTuple):
    """Number of steps taken, and the running means of gradient and squared gradient."""

    steps: jax.Array
    mu: Any
    nu: Any


def lamb(
    b1: float,
    b2: float,
    eps: float,
    decay: float | Schedule,
    multipliers: Mapping[str, float],
    *,
    bias_correction: bool = True,
    always_adapt: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adam's direction, plus decay * p, times |p| / |direction| for each array (1 where either norm is 0).

    An array that does not decay keeps Adam's direction as it is. The gradient's global norm is clipped by whoever
    asks for it (optim.clip), before this.

    Args:
      decay: weight decay, a number or a function of the train state's step, which `update` then takes as `step=`.
      multipliers: {path: multiplier of the decay}.
      bias_correction: of both running means (Adam); off in SparK's fine-tuning.
      always_adapt: scale the direction of arrays that do not decay too; on in SparK's fine-tuning.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return LambState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates, state, params=None, *, step=0, **_):
        steps = state.steps + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        c1, c2 = (1 - b1**steps, 1 - b2**steps) if bias_correction else (1.0, 1.0)
        now = decay(step) if callable(decay) else decay

        def one(path, m, v, p):
            direction = (m / c1) / (jnp.sqrt(v / c2) + eps)
            if multipliers[path]:
                direction = direction + now * multipliers[path] * p
            elif not always_adapt:
                return direction
            p_norm, norm = jnp.linalg.norm(p.ravel()), jnp.linalg.norm(direction.ravel())
            return direction * jnp.where((p_norm > 0) & (norm > 0), p_norm / norm, 1.0)

        return tree.map_with_path(one, mu, nu, params), LambState(steps, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)
