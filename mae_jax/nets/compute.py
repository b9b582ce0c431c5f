"""How a network runs, apart from its weights and their meaning. May change from run to run of the same weights."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from mae_jax.core.chips import Attention, Norm

Remat = Literal["none", "dots", "full", "offload"]


@dataclasses.dataclass(frozen=True)
class Compute:
    """Circumstances of a forward pass.

    Attributes:
      dtype: of activations and of the weights as they enter a matmul. Master weights, norms, softmax and loss stay
        float32.
      scan: run equal blocks as one compiled loop: compiles about 3x faster, uses more memory than unrolled.
      remat: what the backward pass computes again: nothing, everything but matmul outputs, or whole blocks;
        "offload" keeps what "dots" keeps in the host's memory (TPU, GPU).
      drop_path: rate at the encoder's last block, from 0 at its first, of `Method.encode` in training (fine-tuning).
      attention: the implementation (nets/attention_kinds.py); "auto": by the chip.
      norm: the blocks' layer norms (nets/norm_kernel.py); "auto": by the chip.
      fp8: the blocks' linear layers multiply in float8 (nets/fp8.py).
    """

    dtype: Any = jnp.float32
    scan: bool = False
    remat: Remat = "none"
    drop_path: float = 0.0
    attention: Attention = "auto"
    norm: Norm = "auto"
    fp8: bool = False


PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
