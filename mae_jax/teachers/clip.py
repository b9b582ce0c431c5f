"""CLIP's image tower: openai/clip-vit-* on Hugging Face, model.safetensors or pytorch_model.bin."""

from typing import Any

from mae_jax.interop.clip_vision_teacher import rules
from mae_jax.methods.base import FrozenSpec
from mae_jax.teachers import files


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """Those of the tower."""
    return files.tower_shapes(spec)


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """From a whole CLIPModel or a CLIPVisionModel."""
    return files.load_mapped(
        spec, shapes(spec), lambda _: rules(spec.network),
        rename=lambda tensors: {name.removeprefix("vision_model."): x for name, x in tensors.items()},
    )  # fmt: skip
