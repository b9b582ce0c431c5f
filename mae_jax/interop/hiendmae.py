"""FengheTan9/Hi-End-MAE: the pretraining model. Weights on their side are torch's, volumes [b, c, h, w, d]."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Constant, Rule, Rules
from mae_jax.interop.options import options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.methods.hiendmae import HiEndMAE
from mae_jax.nets.vit import sizes
from mae_jax.tokens.positions import sincos

RECOMPUTED = "fixed sine-cosine table: recomputed, and equal to ours"

# The list of block outputs that the authors' code reads, whatever the depth.
MEMORY = (3, 6, 9)


def pretraining_rules(method: HiEndMAE) -> Rules:
    """Name map of `HiEndMAE`; the released file holds the same names."""
    patch = sizes(method.patch, 3)
    their_block = r"decoder.cross_attention_blocks.{i:\d+}"
    our_block = "decoder/cross_blocks/{i}"
    learned = method.positions == "learned"
    return [
        Rule("encoder.cls_token", "encoder/class_token"),
        Rule("encoder_pos_embed", "encoder/pos_embed") if learned else _table("encoder_pos_embed", method.dim, method),
        *parts.patch_embed("encoder.patch_embed.proj", "encoder/patch_embed", method.channels, patch),
        *parts.blocks("encoder.blocks", "encoder/blocks"),
        *parts.norm("encoder.norm", "encoder/norm"),
        *parts.linear("encoder_to_decoder.{i}", "decoder/bridge_{i}"),
        Rule("mask_token", "decoder/mask_token"),
        _table("decoder_pos_embed", method.decoder_dim, method),
        *parts.blocks("decoder.blocks", "decoder/blocks"),
        *[rule for i in range(3) for rule in parts.norm(f"{their_block}.norm{i}", f"{our_block}/norm{i + 1}")],
        *parts.linear(f"{their_block}.self_attn.{{layer:qkv|proj}}", f"{our_block}/attn/{{layer}}"),
        *parts.linear(f"{their_block}.cross_attn.{{layer:q|kv|proj}}", f"{our_block}/cross/{{layer}}"),
        *parts.linear(f"{their_block}.mlp.{{layer:fc1|fc2}}", f"{our_block}/mlp/{{layer}}"),
        *parts.norm("decoder.norm", "decoder/norm"),
        *parts.linear("decoder.head", "decoder/pred"),
    ]


def pretraining_method(config: Mapping[str, Any]) -> HiEndMAE:
    """Our method from the arguments of `HiEndMAE` and of the encoder and decoder that it is given."""
    known = {
        "img_size": 96, "patch_size": 16, "in_chans": 1, "mask_ratio": 0.75, "pos_embed_type": "sincos",
        "embed_dim": 768, "depth": 12, "num_heads": 12, "decoder_embed_dim": 384, "decoder_num_heads": 12,
        "self_depth": 2, "mlp_ratio": 4.0,
    }  # fmt: skip
    only = {"cross_depth": (3,), "qkv_bias": (True,), "self_attn": (True,), "use_pe": (True,)}
    inert = ("drop_rate", "attn_drop_rate", "drop_path_rate", "return_patchembed")
    o = options(config, known, what="HiEndMAE", only=only, inert=inert)
    kinds: dict[str, Literal["sincos", "learned"]] = {"sincos": "sincos", "perceptron": "learned"}
    if o["pos_embed_type"] not in kinds:
        raise UserError(
            f"HiEndMAE with pos_embed_type={o['pos_embed_type']!r} has no counterpart here; known are "
            f"{' and '.join(map(repr, kinds))}."
        )
    method = HiEndMAE(
        volume_size=_triple(o["img_size"]), patch=_triple(o["patch_size"]), channels=o["in_chans"],
        dim=o["embed_dim"], depth=o["depth"], heads=o["num_heads"], mlp_ratio=float(o["mlp_ratio"]), memory=MEMORY,
        decoder_dim=o["decoder_embed_dim"], decoder_depth=o["self_depth"], decoder_heads=o["decoder_num_heads"],
        positions=kinds[o["pos_embed_type"]], mask_ratio=float(o["mask_ratio"]),
    )  # fmt: skip
    method.check()
    return method


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient on the stored volumes, the stored noise in place of the mask's draw."""
    method = pretraining_method(golden.config)
    rules = pretraining_rules(method)
    volume = jnp.asarray(golden.channels_last("image", method.batch_spec["volume"].shape))
    noise = jnp.asarray(golden.input("noise"))
    template, _ = jax.eval_shape(lambda v: method.init(jax.random.key(0), {"volume": v}), volume)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        context = Context(jax.random.key(0), given={"mask": noise})
        value, aux = method.loss(params, {"stats": {}, "ema": {}, "frozen": {}}, {"volume": volume}, context)
        return value, aux.seen

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, seen), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {
            **{name: x for name, x in seen.items() if name.startswith(("hidden", "memory"))},
            "latent": seen["latent"],
            "decoder_query": seen["queries"],
            "pred_shuffled": seen["pred"],
            "ids_shuffle": seen["ids"],
            "loss": value,
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, template)


CASES = {"hi_end_mae.py HiEndMAE": prepare_pretraining}


def _table(theirs: str, dim: int, method: HiEndMAE) -> Constant:
    return Constant(theirs, sincos(dim, method.grid, first="row")[None], RECOMPUTED)


def _triple(value: int | Sequence[int]) -> tuple[int, int, int]:
    """A size that the file gives once or per axis."""
    a, b, c = sizes(value if isinstance(value, int) else tuple(value), 3)
    return a, b, c
