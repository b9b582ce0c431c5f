"""CLIP's image tower in Hugging Face's names (transformers.CLIPVisionModel, CLIPModel)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Rule, Rules, Unused, reshape, stacked, transpose
from mae_jax.interop.options import options
from mae_jax.interop.parity import Prepared
from mae_jax.nets.block import Transformer
from mae_jax.nets.layers import apply
from mae_jax.nets.tower import Tower, attention, shapes
from mae_jax.tokens.grid import grid_shape

INERT = (
    "projection_dim", "attention_dropout", "dropout", "initializer_range", "initializer_factor", "model_type",
    "architectures", "torch_dtype", "dtype", "transformers_version", "attn_implementation", "_attn_implementation",
)  # fmt: skip


def rules(tower: Tower) -> Rules:
    """Name map of `CLIPVisionModel`, "vision_model." left out; of a whole CLIPModel, the rest is not used."""
    d, n = tower.shape.dim, 1 + math.prod(grid_shape(tower.size, tower.patch))
    layer, mine = r"encoder.layers.{i:\d+}", "blocks/{i}"
    return [
        Rule("embeddings.class_embedding", "class_token", reshape((d,), (1, 1, d))),
        *parts.patch_embed("embeddings.patch_embedding", "patch_embed", tower.channels, tower.patch),
        Rule("embeddings.position_embedding.weight", "pos_embed", reshape((n, d), (1, n, d))),
        *parts.norm("pre_layrnorm", "norm_first"),
        *parts.norm("post_layernorm", "norm"),
        *separate_qkv(f"{layer}.self_attn", f"{mine}/attn", ("q_proj", "k_proj", "v_proj"), "out_proj"),
        *parts.norm(f"{layer}.layer_norm1", f"{mine}/norm1"),
        *parts.norm(f"{layer}.layer_norm2", f"{mine}/norm2"),
        *parts.linear(f"{layer}.mlp.{{fc:fc[12]}}", f"{mine}/mlp/{{fc}}"),
        Unused("embeddings.position_ids", "0, 1, 2, ..."),
        Unused(r"{part:text_model|text_projection|visual_projection|logit_scale}{rest:.*}", "not the image tower"),
    ]


def separate_qkv(theirs: str, ours: str, qkv: Sequence[str], out: str) -> list[Rule]:
    """Attention with a layer each for queries, keys and values, `qkv` by name, and `out`."""
    return [
        Rule(tuple(f"{theirs}.{name}.weight" for name in qkv), f"{ours}/qkv/kernel", stacked(3, transpose)),
        Rule(tuple(f"{theirs}.{name}.bias" for name in qkv), f"{ours}/qkv/bias", stacked(3)),
        *parts.linear(f"{theirs}.{out}", f"{ours}/proj"),
    ]


def tower_of(config: Mapping[str, Any]) -> Tower:
    """Our network from the fields of `CLIPVisionConfig`."""
    known = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip
    only = {"hidden_act": ("quick_gelu", "gelu")}
    o = options(config, known, what="CLIPVisionModel", only=only, inert=INERT)
    shape = Transformer(
        o["hidden_size"], o["num_hidden_layers"], o["num_attention_heads"],
        inner_ratio(o["intermediate_size"], o["hidden_size"]), norm_eps=float(o["layer_norm_eps"]),
        activation=o["hidden_act"],
    )  # fmt: skip
    square = (o["image_size"],) * 2, (o["patch_size"],) * 2
    return Tower(shape, *square, o["num_channels"], patch_bias=False, norm_first=True)


def inner_ratio(inner: int, width: int) -> float:
    """The `mlp_ratio` r for which int(r * width) is `inner`: the quotient, rounded up."""
    return math.nextafter(inner / width, math.inf) if int(inner / width * width) < inner else inner / width


def layers(tower: Tower, params: dict[str, Any], image: jax.Array) -> dict[str, Any]:
    """Everything that the files of both kinds of towers hold; "normed" is theirs to name."""
    out = jax.jit(lambda params: apply(tower, params, image))(params)
    every = {f"attn_{i}": np.asarray(attention(tower, params, out.hidden, i)) for i in range(tower.shape.depth)}
    return {
        **{f"hidden_{i}": x for i, x in enumerate(out.hidden)},
        **every,
        "attn_last": every[f"attn_{tower.shape.depth - 1}"],
        "normed": out.normed,
    }


def prepare(golden: Golden) -> Prepared:
    """All hidden states, the last attention, and the pooled class token, which alone goes through the last norm."""
    tower = tower_of(golden.config)
    image = jnp.asarray(golden.channels_last("pixel_values"))

    def run(params: dict[str, Any]) -> dict[str, Any]:
        out = layers(tower, params, image)
        last = out[f"hidden_{tower.shape.depth}"]
        return out | {"last_hidden_state": last, "pooler_output": out["normed"][:, 0]}

    return Prepared(run, rules(tower), shapes(tower))


CASES = {"CLIPVisionModel": prepare}
