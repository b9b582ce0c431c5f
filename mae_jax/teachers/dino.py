"""DINO's ViT: facebook/dino-vit* on Hugging Face, or facebookresearch/dino's own dino_*_pretrain.pth."""

from typing import Any

from mae_jax.interop.dino_vit_teacher import rules
from mae_jax.methods.base import FrozenSpec
from mae_jax.teachers import files


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """Those of the tower."""
    return files.tower_shapes(spec)


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """In whichever of its names."""
    return files.load_mapped(
        spec, shapes(spec), lambda tensors: rules(spec.network, tensors),
        rename=lambda tensors: {name.removeprefix("vit."): x for name, x in tensors.items()},
    )  # fmt: skip
