"""The linear probe of the MAE paper (He et al., 2021, Appendix A.1, Table 10): LARS on a batch norm without affine.

The batch norm sees the whole batch; the authors' code that of one GPU (512). Their number is the best epoch's, ours
the last one's.
"""

import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.core.types import Features
from mae_jax.data.sources import Source
from mae_jax.eval.features import pool
from mae_jax.eval.probes import Result
from mae_jax.nets.layers import BatchNorm, dense
from mae_jax.schema import Transfer
from mae_jax.train.optimizers import lars
from mae_jax.transfer.head import FrozenEncoder, Recipe, train_and_score


class LinearHead(nn.Module):
    """Batch norm without scale and offset (eps 1e-6), then a linear layer."""

    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool = False) -> Float[Array, "b classes"]:
        x = BatchNorm(1e-6, affine=False, name="norm")(x, train=train)
        init = nn.initializers.truncated_normal(0.01)
        return dense(self.classes, "head", jnp.float32, kernel_init=init)(x)


FAR = 3.0  # on digits 7 was far enough (97.2 %), 0.25 was not (43 %); ImageNet with the paper's numbers: 2000


def _warn(o: Transfer, n: int) -> None:
    """Say where the recipe cannot reach a good head: LARS moves it by a share of its length at a time."""
    reach = 0.5 * o.probe_epochs * n * o.probe_learning_rate / 256 * o.probe_trust / max(1 - o.probe_momentum, 1e-3)
    if reach < FAR and jax.process_index() == 0:
        print(
            f"mae_jax: with {n} samples this recipe moves the head by {reach:.2g} times its length at most, too "
            f"little to learn much (ImageNet: 2000). Raise transfer.probe_learning_rate to about "
            f"{10 * FAR / reach * o.probe_learning_rate:.1g}.",
            file=sys.stderr,
        )


def linear_paper(opened: Any, train: Source, test: Source) -> Result:
    """The protocol `linear_paper`; its numbers are the keys transfer.probe_*."""
    o = opened.run.config.transfer

    def pick(features: Features) -> Float[Array, "b d"]:
        how = o.probe_pool
        if how == "auto":
            how = "class" if features.prefix.shape[1] else "mean"
        return pool(features, how)

    _warn(o, len(train))
    recipe = Recipe(
        o.probe_epochs, o.probe_warmup, o.probe_batch, o.probe_learning_rate,
        lambda params: lars(o.probe_momentum, o.probe_trust, o.probe_weight_decay),
    )  # fmt: skip
    return train_and_score(FrozenEncoder(opened, pick), LinearHead(len(train.classes)), recipe, train, test)
