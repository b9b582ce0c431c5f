"""A plain ViT as a frozen tower (DINO and others), in three dialects of names.

Hugging Face's ViTModel as transformers 5 names it, as its published files do, and timm's, which DINO's own files and
MAE's have.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from mae_jax.interop import blocks as parts
from mae_jax.interop.clip_vision_teacher import inner_ratio, layers, separate_qkv
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Constant, Rule, Rules, Tensors, Unused
from mae_jax.interop.options import options
from mae_jax.interop.parity import Prepared
from mae_jax.nets.block import Transformer
from mae_jax.nets.tower import Tower, shapes
from mae_jax.nets.vit import sizes
from mae_jax.tokens.grid import grid_shape
from mae_jax.tokens.positions import sincos, with_prefix

INERT = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "encoder_stride", "pooler_output_size",
    "pooler_act", "model_type", "architectures", "torch_dtype", "dtype", "transformers_version", "attn_implementation",
    "_attn_implementation",
)  # fmt: skip


def rules(tower: Tower, tensors: Tensors) -> Rules:
    """The name map of the dialect that the tensors are named in."""
    if "cls_token" in tensors:
        return timm_rules(tower)
    return transformers_rules(tower, published=any(".attention.attention." in name for name in tensors))


def transformers_rules(tower: Tower, published: bool = False) -> Rules:
    """Name map of `ViTModel`: as transformers 5 has it, or as in the published files (`published`)."""
    if published:
        layer = r"encoder.layer.{i:\d+}"
        names = ("attention.query", "attention.key", "attention.value", "output.dense")
        mlp = {"intermediate.dense": "fc1", "output.dense": "fc2"}
    else:
        layer = r"layers.{i:\d+}"
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        mlp = {"mlp.fc1": "fc1", "mlp.fc2": "fc2"}
    return [
        Rule("embeddings.cls_token", "class_token"),
        Rule("embeddings.position_embeddings", "pos_embed"),
        *parts.patch_embed("embeddings.patch_embeddings.projection", "patch_embed", tower.channels, tower.patch),
        *separate_qkv(f"{layer}.attention", "blocks/{i}/attn", names[:3], names[3]),
        *parts.norm(f"{layer}.layernorm_before", "blocks/{i}/norm1"),
        *parts.norm(f"{layer}.layernorm_after", "blocks/{i}/norm2"),
        *(
            rule
            for theirs, ours in mlp.items()
            for rule in parts.linear(f"{layer}.{theirs}", f"blocks/{{i}}/mlp/{ours}")
        ),
        *parts.norm("layernorm", "norm"),
        Unused("pooler.{rest:.*}", "no part of the features"),
    ]


def timm_rules(tower: Tower) -> Rules:
    """Name map of timm's ViT: DINO's own files, and MAE's, whose decoder is not used."""
    if tower.positions == "learned":
        positions: Rule | Constant = Rule("pos_embed", "pos_embed")
    else:
        table = with_prefix(sincos(tower.shape.dim, grid_shape(tower.size, tower.patch)), 1)[None]
        positions = Constant("pos_embed", table, "fixed sine-cosine table: recomputed, and equal to ours")
    return [
        Rule("cls_token", "class_token"),
        positions,
        *parts.patch_embed("patch_embed.proj", "patch_embed", tower.channels, tower.patch),
        *parts.blocks("blocks", "blocks"),
        *parts.norm("norm", "norm"),
        Unused(r"{part:mask_token|decoder_|head}{rest:.*}", "no part of the encoder"),
    ]


def tower_of(config: Mapping[str, Any]) -> Tower:
    """Our network from the fields of `ViTConfig`."""
    known = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "qkv_bias": True,
    }  # fmt: skip
    only = {"hidden_act": ("gelu", "quick_gelu")}
    o = options(config, known, what="ViTModel", only=only, inert=INERT)
    shape = Transformer(
        o["hidden_size"], o["num_hidden_layers"], o["num_attention_heads"],
        inner_ratio(o["intermediate_size"], o["hidden_size"]), o["qkv_bias"], norm_eps=float(o["layer_norm_eps"]),
        activation=o["hidden_act"],
    )  # fmt: skip
    size, patch = (sizes(x if isinstance(x, int) else tuple(x)) for x in (o["image_size"], o["patch_size"]))
    return Tower(shape, size, patch, o["num_channels"])


def prepare(golden: Golden) -> Prepared:
    """All hidden states, the last attention, and the last state after the norm."""
    tower = tower_of(golden.config)
    image = jnp.asarray(golden.channels_last("pixel_values"))

    def run(params: dict[str, Any]) -> dict[str, Any]:
        out = layers(tower, params, image)
        return out | {"last_hidden_state": out["normed"]}

    return Prepared(run, rules(tower, golden.weights), shapes(tower))


CASES = {"ViTModel": prepare}
