"""A bank of noise patterns (ColorMAE): a published <colour>_noise_data_*.npz, or "generated" from its recipe.

No network, but frozen as one is: read or made once, before the first step, and the same on every device.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.interop.files import read_tensors
from mae_jax.methods.base import FrozenSpec
from mae_jax.teachers import files


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """{"patterns": [L, M, N]}, as the spec's `Bank` (masking/colour.py) says."""
    bank = spec.network
    return {"patterns": jax.ShapeDtypeStruct((bank.count, *bank.size), jnp.float32)}


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """The patterns; of a file the first array, as the authors' code takes it."""
    bank = spec.network
    if spec.file == "generated":
        return {"patterns": bank.generate()}, files.check_hash(spec, bank.recipe)
    path = files.find(spec)
    found = files.check_hash(spec, files.sha256(path))
    name, patterns = next(iter(read_tensors(path).items()))
    wanted = (bank.count, *bank.size)
    if patterns.shape != wanted:
        mend = ""
        if patterns.ndim == 3:
            mend = f" Set method.patterns={patterns.shape[0]} and method.pattern_size={patterns.shape[1:]}."
        raise UserError(
            f"{path}: its first array '{name}' has shape {patterns.shape}; the config expects {wanted} (patterns, "
            f"rows, columns).{mend}"
        )
    return {"patterns": np.asarray(patterns, np.float32)}, found
