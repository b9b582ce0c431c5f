"""The prototypical probe (Bird-MAE, Rauch et al. 2025): class prototypes on the map of a frozen encoder's tokens.

AdamW (0.9, 0.95) after clipping to norm 2, with a rate for the prototypes and another for the last layer, warm-up and
cosine; the asymmetric loss of several labels, one of which is 1 where records have one class.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mae_jax.core.errors import UserError
from mae_jax.core.tree import flatten
from mae_jax.core.types import Features, Params
from mae_jax.data.sources import Source
from mae_jax.eval.probes import Result
from mae_jax.losses.asymmetric import asymmetric
from mae_jax.nets.prototypes import PrototypeHead, feature_map
from mae_jax.schema import Transfer
from mae_jax.train.optimizers import adamw, scale_by_path
from mae_jax.transfer.head import FrozenEncoder, Recipe, train_and_score

CLIP = 2.0


class LogitsOf(nn.Module):
    """A head as a probe reads it: its logits alone."""

    head: PrototypeHead

    def __call__(self, x: Float[Array, "b h w d"], *, train: bool = False) -> Float[Array, "b classes"]:
        return self.head(x, train=train)[0]


def prototypical(opened: Any, train: Source, test: Source) -> Result:
    """The protocol `prototypes`; its numbers are the keys transfer.probe_prototype*."""
    o = opened.run.config.transfer
    if o.probe_prototypes < 1:
        raise UserError(f"transfer.probe_prototypes={o.probe_prototypes}: at least one per class expected.")

    def pick(features: Features) -> Float[Array, "b h w d"]:
        if len(features.grid) != 2 or features.valid is not None or features.prefix.shape[1] < 1:
            raise UserError(
                f"the prototypical probe compares the tokens of a grid (rows, columns) with the class token, and this "
                f"encoder's grid is {features.grid}, with {features.prefix.shape[1]} class token(s)."
            )
        return feature_map(features)

    recipe = Recipe(
        o.probe_prototype_epochs, o.probe_prototype_warmup * o.probe_prototype_epochs, o.probe_prototype_batch,
        o.probe_prototype_rate, lambda params: groups(params, o), loss, scaled=False,
    )  # fmt: skip
    head = LogitsOf(PrototypeHead(len(train.classes), o.probe_prototypes))
    return train_and_score(FrozenEncoder(opened, pick), head, recipe, train, test)


def groups(params: Params, o: Transfer) -> optax.GradientTransformation:
    """AdamW with the rate and the decay of each part, of which the prototypes' rate is the schedule's."""
    last = {path: "last" in path for path in flatten(params)}
    share = o.probe_prototype_last_rate / o.probe_prototype_rate
    decays = {path: 1 / 3 if is_last else 1.0 for path, is_last in last.items()}
    return optax.chain(
        optax.clip_by_global_norm(CLIP),
        adamw(0.9, 0.95, 1e-8, o.probe_prototype_weight_decay, decays),
        scale_by_path({path: share if is_last else 1.0 for path, is_last in last.items()}),
    )


def loss(logits: Float[Array, "b c"], labels: Int[Array, "b *c"]) -> Float[Array, ""]:
    """Mean asymmetric loss over samples and classes."""
    several = labels if labels.ndim == 2 else jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.int32)
    return asymmetric(logits, several).mean()
