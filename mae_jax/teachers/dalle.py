"""The encoder of DALL-E's discrete VAE, as openai published it: https://cdn.openai.com/dall-e/encoder.pkl."""

from typing import Any

from mae_jax.interop.cae import dalle_rules
from mae_jax.methods.base import FrozenSpec
from mae_jax.teachers import files


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """Those of a `DalleEncoder` (nets/tokenizers.py)."""
    return files.tokenizer_shapes(spec)


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """Its convolutions."""
    return files.load_mapped(spec, shapes(spec), lambda tensors: dalle_rules())
