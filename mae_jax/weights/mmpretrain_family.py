"""mmpretrain's masked autoencoders (MAE, ColorMAE) as our ColorMAE, which is MAE with the row first in its tables."""

from collections.abc import Mapping
from typing import Any

from mae_jax.core.errors import UserError
from mae_jax.interop import vit_layouts as layouts
from mae_jax.interop.clip_vision_teacher import inner_ratio
from mae_jax.interop.names import Tensors
from mae_jax.weights.families import Found, block_count, plain, required
from mae_jax.weights.hints import Hints


def is_mmpretrain(tensors: Tensors) -> bool:
    """Whether these are the tensors of a model with a ViT as `backbone`, of mmpretrain."""
    return "backbone.patch_embed.projection.weight" in tensors


def official(tensors: Tensors, hints: Hints, where: str) -> Found:
    """The state dict of a pretraining model, or its backbone alone."""
    kernel = required(tensors, "backbone.patch_embed.projection.weight", where)
    dim, channels, *cut = kernel.shape
    patch = (cut[0], cut[1])
    table, decoder = required(tensors, "backbone.pos_embed", where), "neck.mask_token" in tensors
    n = table.shape[1] - 1
    size = hints.image_size or (round(n**0.5) * patch[0], round(n**0.5) * patch[1])
    grid = size[0] // patch[0], size[1] // patch[1]
    if grid[0] * grid[1] != n:
        raise UserError(
            f"{where} has {n} positions, and images of {size[0]} x {size[1]} have {grid[0]} x {grid[1]} patches: say "
            f"for which images, --image-size ROWS COLUMNS."
        )
    order = layouts.order_of(table, grid, 1)
    method: dict[str, Any] = {
        "name": "colormae", "image_size": plain(size), "patch": plain(patch), "channels": channels, "dim": dim,
        "depth": block_count(tensors, r"backbone\.layers\.(\d+)\."), "heads": hints.heads_of(dim),
        "mlp_ratio": inner_ratio(required(tensors, "backbone.layers.0.ffn.layers.0.0.weight", where).shape[0], dim),
        "norm_eps": hints.norm_eps or 1e-6, "positions": "sincos" if order == "row" else "learned",
    }  # fmt: skip
    width = None
    if decoder:
        width = required(tensors, "neck.decoder_embed.weight", where).shape[0]
        method |= {
            "decoder_dim": width, "decoder_depth": block_count(tensors, r"neck\.decoder_blocks\.(\d+)\."),
            "decoder_heads": hints.heads_of(width, "decoder_"),
        }  # fmt: skip
    s = layouts.Sizes(channels, patch, grid, dim, width, order != "row")
    left: Mapping[str, str] = {}
    if any(name.startswith("head.") for name in tensors):
        left = {"head": "a classifier's: only pretraining models are read from mmpretrain"}
        tensors = {name: x for name, x in tensors.items() if not name.startswith("head.")}
    return Found(
        "mmpretrain", tensors, layouts.mmpretrain(s), method, "pretraining" if decoder else "encoder",
        norm_pix=True if decoder else None,  # as in all of its recipes of MAE
        order=order, left_out=left,
        tables={"backbone.pos_embed": "encoder", "neck.decoder_pos_embed": "decoder"},
    )  # fmt: skip
