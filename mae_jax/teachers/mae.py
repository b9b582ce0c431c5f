"""The encoder of a published MAE: facebookresearch/mae's mae_pretrain_vit_*.pth, with or without a decoder."""

from typing import Any

from mae_jax.interop.dino_vit_teacher import timm_rules
from mae_jax.methods.base import FrozenSpec
from mae_jax.teachers import files


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """Those of the tower."""
    return files.tower_shapes(spec)


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """In timm's names; its fixed positions must be those that ours recomputes."""
    return files.load_mapped(spec, shapes(spec), lambda _: timm_rules(spec.network))
