"""Heads behind an encoder: projectors and predictors."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.nets.block import ACTIVATIONS
from mae_jax.nets.layers import BatchNorm, LayerNorm, dense

HeadNorm = Literal["bn", "ln", "none"]
HeadActivation = Literal["relu", "gelu"]


class Head(nn.Module):
    """`depth` linear layers without bias; norm and activation between them, neither after the last (BYOL's, as in LUT).

    Attributes:
      hidden, out: width between the layers, and after the last one.
      depth: number of linear layers; 0 is the identity.
      norm: over the batch, over features (eps 1e-6), or none.
    """

    hidden: int
    out: int
    depth: int = 2
    norm: HeadNorm = "bn"
    activation: HeadActivation = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool = False) -> Float[Array, "b e"]:
        """Return [b, out]; `train`: batch norm by the batch's statistics, which also moves the running ones."""
        for i in range(self.depth):
            if i:
                if self.norm == "bn":
                    x = BatchNorm(dtype=self.dtype, name=f"norm{i - 1}")(x, train=train)
                elif self.norm == "ln":
                    x = LayerNorm(dtype=self.dtype, name=f"norm{i - 1}")(x)
                x = jax.nn.relu(x) if self.activation == "relu" else ACTIVATIONS["gelu"](x)
            width = self.hidden if i < self.depth - 1 else self.out
            x = dense(width, f"fc{i}", self.dtype, use_bias=False)(x)
        return x


class ClassHead(nn.Module):
    """A linear classifier of pooled features.

    Attributes:
      norm: whether a layer norm comes first (`fc_norm`: MAE's fine-tuning with mean pooling); its `eps`.
      std: of the truncated normal that initialises the kernel; MAE: 2e-5 to fine-tune, 0.01 to probe.
    """

    classes: int
    norm: bool = True
    eps: float = 1e-6
    std: float = 2e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], kept: Float[Array, "b d"] | None = None
    ) -> tuple[Float[Array, "b classes"], Float[Array, "b d"]]:
        """Return (logits, what the linear layer reads), in float32; `kept` multiplies the latter (dropout)."""
        x = x.astype(jnp.float32)
        x = LayerNorm(self.eps, name="fc_norm")(x) if self.norm else x
        x = x if kept is None else x * kept
        init = nn.initializers.truncated_normal(self.std)
        return dense(self.classes, "head", jnp.float32, kernel_init=init)(x), x
