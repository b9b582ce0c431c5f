"""How a network runs, apart from its weights and their meaning. May change from run to run of the same weights."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

Remat = Literal["none", "dots", "full"]


@dataclasses.dataclass(frozen=True)
class Compute:
    """Circumstances of a forward pass.

    Attributes:
      dtype: of activations and of the weights as they enter a matmul. Master weights, norms, softmax and loss stay
        float32.
      scan: run equal blocks as one compiled loop: compiles about 3x faster, uses more memory than unrolled.
      remat: what the backward pass computes again: nothing, everything but matmul outputs, or whole blocks.
      drop_path: rate at the encoder's last block, from 0 at its first, of `Method.encode` in training (fine-tuning).
    """

    dtype: Any = jnp.float32
    scan: bool = False
    remat: Remat = "none"
    drop_path: float = 0.0


PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
