"""Attentive probe: a learned query attends to all tokens of a frozen encoder, a linear layer reads what it found.

The head is CAE's (Chen et al., 2022, 2202.03026, Sec. 4.1): norms before query, keys and values, then a batch norm
without affine and a linear layer. The recipe (AdamW, cosine) is ours.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.errors import UserError
from mae_jax.core.types import Features, Params
from mae_jax.data.sources import Source
from mae_jax.eval.probes import Result
from mae_jax.nets.block import Transformer
from mae_jax.nets.vit import AttentivePool
from mae_jax.train.optimizers import FINETUNE_DECAY, adamw, decay_multipliers
from mae_jax.transfer.head import FrozenEncoder, Recipe, train_and_score
from mae_jax.transfer.linear import LinearHead


class AttentiveHead(nn.Module):
    """`AttentivePool` over all tokens, then `LinearHead`."""

    classes: int
    heads: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b classes"]:
        shape = Transformer(tokens.shape[-1], 1, self.heads, norm_eps=1e-6)
        x = AttentivePool(shape, name="attend")(tokens)
        return LinearHead(self.classes, name="linear")(x, train=train)


def attentive(opened: Any, train: Source, test: Source) -> Result:
    """The protocol `attentive`; its numbers are the keys transfer.probe_attentive_*."""
    o = opened.run.config.transfer

    def pick(features: Features) -> Float[Array, "b n d"]:
        if features.valid is not None:
            raise UserError("the attentive probe needs every token to be real, and this encoder pads some.")
        return jnp.concatenate([features.prefix, features.normed], axis=1)

    def optimizer(params: Params):
        multipliers = decay_multipliers(params, FINETUNE_DECAY)
        return adamw(0.9, 0.999, 1e-8, o.probe_attentive_weight_decay, multipliers)

    recipe = Recipe(
        o.probe_attentive_epochs, o.probe_attentive_warmup, o.probe_attentive_batch, o.probe_attentive_learning_rate,
        optimizer,
    )  # fmt: skip
    encoder = FrozenEncoder(opened, pick)
    heads = _heads(o.probe_attentive_heads, encoder.shape[-1])
    return train_and_score(encoder, AttentiveHead(len(train.classes), heads), recipe, train, test)


def _heads(asked: int, dim: int) -> int:
    """The number of heads of the query's attention; by default one per 64 channels, as far as that divides."""
    if asked == 0:
        return next(h for h in range(max(1, dim // 64), 0, -1) if dim % h == 0)
    if asked < 1 or dim % asked:
        raise UserError(f"transfer.probe_attentive_heads={asked} does not divide the width {dim} of the tokens.")
    return asked
