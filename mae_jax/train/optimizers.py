"""Optimizers as optax transformations that give a direction; the step multiplies it by -lr(state.step).

Which parameters decay, and how fast each layer learns, are rules over parameter paths with a coverage check.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from mae_jax.core import tree
from mae_jax.core.errors import UserError, nearest
from mae_jax.core.types import Params
from mae_jax.schema import Optim
from mae_jax.train.lamb import lamb
from mae_jax.train.schedules import Schedule, weight_decay

# (regular expression over paths, multiplier of optim.weight_decay); first match wins.
# Pretraining (facebookresearch/mae): vectors do not decay, but class and mask tokens do.
PRETRAIN_DECAY = Optim.decay_rules
# Fine-tuning: neither do class token and positions.
FINETUNE_DECAY = (
    (r"(^|/)(bias|q_bias|v_bias|scale|gamma|slope|temperature|mix|class_token|mask_token|pos_embed)$", 0.0),
    (r"(^|/)kernel$", 1.0),
)


def decay_multipliers(params: Params, rules: Sequence[tuple[str, float]] = PRETRAIN_DECAY) -> dict[str, float]:
    """{path: multiplier of the weight decay}; every parameter must be covered by a rule."""
    return tree.match(rules, tree.flatten(params), "weight-decay rule", "optim.decay_rules, or to Method.rules")


def layer_scales(params: Params, decay: float) -> dict[str, float]:
    """{path: learning-rate multiplier decay^(n - id)} (facebookresearch/mae, lr_decay; BEiT).

    Positions, class token, patch embedding and a convnet's stem have id 0, block i has i + 1, everything else (norms,
    head) has n, one more than the last block. The blocks of a convnet's stage count in equal groups of up to three, and
    with the first group what comes before its stage (SparK). Towers side by side count alike.
    """
    ids = _layer_ids(list(tree.flatten(params)))
    n = 1 + max((i for i in ids.values() if i is not None), default=0)
    return {path: decay ** (n - (n if i is None else i)) for path, i in ids.items()}


def _layer_ids(paths: Sequence[str]) -> dict[str, int | None]:
    """{path: layer}; None: after all blocks."""
    found: dict[str, int | None] = {}
    stages: dict[int, set[int]] = {}  # of a convnet: the numbers of its blocks
    for path in paths:
        if stage := re.search(STAGE_BLOCK, path):
            stages.setdefault(int(stage[1]), set()).add(int(stage[2]))
    groups = {s: -(-len(blocks) // 3) for s, blocks in sorted(stages.items())}
    firsts = {s: 1 + sum(n for other, n in groups.items() if other < s) for s in groups}
    for path in paths:
        if stage := re.search(STAGE_BLOCK, path):
            s = int(stage[1])
            size = -(-len(stages[s]) // groups[s])
            found[path] = firsts[s] + int(stage[2]) // size
        elif stage := re.search(r"(^|/)stage(\d+)_(conv|norm)/", path):
            found[path] = firsts[int(stage[2])] if int(stage[2]) else 0
        elif re.search(r"(^|/)(class_token|pos_embed|patch_embed/\w+)$", path) or (stages and re.search(STEM, path)):
            found[path] = 0
        else:
            block = re.search(r"(^|/)blocks/(\d+)/", path)
            found[path] = int(block[2]) + 1 if block else None
    return found


STAGE_BLOCK = r"(?:^|/)stage(\d+)_blocks/(\d+)/"
STEM = r"(^|/)(conv1|bn1)/\w+$"


def scale_by_path(values: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply each parameter's direction by its own constant (layer decay)."""
    return optax.stateless(lambda updates, _: tree.map_with_path(lambda path, u: u * values[path], updates))


def add_decay(
    weight_decay: float | Schedule, multipliers: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    """Add weight_decay * multiplier * parameter to each direction (decoupled, as in AdamW).

    Args:
      weight_decay: a number, or a function of the train state's step, which `update` then takes as `step=`.
    """

    def update(updates, state, params=None, *, step=0, **_):
        decay = weight_decay(step) if callable(weight_decay) else weight_decay

        def one(path, u, p):
            return u + decay * multipliers[path] * p if multipliers[path] else u

        return tree.map_with_path(one, updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def adamw(b1: float, b2: float, eps: float, weight_decay: float | Schedule, multipliers: Mapping[str, float]):
    """AdamW's direction: m / (sqrt(v) + eps) + decay * p (Loshchilov and Hutter, 2019; torch's AdamW)."""
    return optax.chain(optax.scale_by_adam(b1=b1, b2=b2, eps=eps), add_decay(weight_decay, multipliers))


def clip_groups(groups: Sequence[tuple[str, float]], params: Params) -> optax.GradientTransformation:
    """Clip each group of parameters to its own global norm; the first regular expression found in a path has it."""
    norms = dict(groups)
    group = tree.match([(pattern, pattern) for pattern, _ in groups], tree.flatten(params), "clipping group")

    def clip(updates, _):
        found = {
            name: optax.tree.norm([u for path, u in tree.flatten(updates).items() if group[path] == name])
            for name in norms
        }
        factor = {name: jnp.minimum(1.0, norms[name] / jnp.maximum(n, 1e-12)) for name, n in found.items()}
        return tree.map_with_path(lambda path, u: u * factor[group[path]], updates)

    return optax.stateless(clip)


def lars(
    momentum: float = 0.9,
    trust: float = 0.001,
    weight_decay: float | Schedule = 0.0,
    *,
    multipliers: Mapping[str, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """LARS as facebookresearch/mae writes it for linear probing.

    Arrays of two or more axes: g <- g + wd p, then g <- g * trust |p| / |g| (1 where either norm is 0). Vectors: plain
    momentum. optax.lars is another rule: it multiplies the learning rate into the momentum buffer, so that the two
    agree only at a constant rate (tests/train/test_optimizers.py).

    Args:
      weight_decay: a number, or a function of the train state's step, which `update` then takes as `step=`.
      multipliers: {path: multiplier of the weight decay}, of vectors too; None: 1, and 0 of vectors.
    """

    def ratio(g, p):
        if p.ndim <= 1:
            return g
        p_norm, g_norm = jnp.linalg.norm(p), jnp.linalg.norm(g)
        return g * jnp.where((p_norm > 0) & (g_norm > 0), trust * p_norm / g_norm, 1.0)

    def update(updates, state, params=None, **extra):
        decays = multipliers
        if decays is None:
            decays = {path: float(p.ndim > 1) for path, p in tree.flatten(params).items()}
        decayed, state = add_decay(weight_decay, decays).update(updates, state, params, **extra)
        return jax.tree.map(ratio, decayed, params), state

    rule = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    return optax.chain(rule, optax.trace(decay=momentum))


def make_optimizer(
    config: Optim, params: Params, steps: int = 1, own: Sequence[tuple[str, float]] = ()
) -> optax.GradientTransformation:
    """The optimizer that `config` names, for parameters of this tree (shapes suffice) and a schedule of `steps`.

    Args:
      own: decay rules of the method, for parameters that no rule of `config` covers.

    Raises:
      UserError: an unknown optimizer, a parameter that no decay rule covers.
    """
    if config.name not in OPTIMIZERS:
        raise UserError(f"unknown optim.name '{config.name}'. {nearest(config.name, OPTIMIZERS)}")
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    parts += [clip_groups(config.clip_groups, params)] if config.clip_groups else []
    multipliers = decay_multipliers(params, (*config.decay_rules, *own))
    parts += [OPTIMIZERS[config.name](config, multipliers, weight_decay(config, steps))]
    if config.layer_decay != 1:
        parts += [scale_by_path(layer_scales(params, config.layer_decay))]
    return optax.chain(*parts)


# name: (optim section, {path: decay multiplier}, weight decay of a step) -> transformation that gives a direction
OPTIMIZERS: dict[str, Callable[[Optim, Mapping[str, float], Schedule], optax.GradientTransformation]] = {
    "adamw": lambda c, multipliers, decay: adamw(c.b1, c.b2, c.eps, decay, multipliers),
    "adam": lambda c, multipliers, decay: optax.chain(
        add_decay(decay, multipliers), optax.scale_by_adam(c.b1, c.b2, c.eps)
    ),
    "lamb": lambda c, multipliers, decay: lamb(c.b1, c.b2, c.eps, decay, multipliers),
    "lars": lambda c, multipliers, decay: lars(c.momentum, c.trust, decay, multipliers=multipliers),
    "sgd": lambda c, multipliers, decay: optax.chain(add_decay(decay, multipliers), optax.trace(c.momentum)),
}
