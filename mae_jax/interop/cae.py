"""Atten4Vis/CAE: the pretraining model, the classifier, and the tokenizer (OpenAI's DALL-E dVAE encoder).

Names are those of the official state dicts; weights on their side are torch's, images NCHW.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Constant, Rule, Rules, Transform, Unused, transpose
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.losses.cross_entropy import cross_entropy
from mae_jax.methods.cae import CAE
from mae_jax.nets.block import Transformer
from mae_jax.nets.tokenizers import DalleEncoder
from mae_jax.nets.vit import Classifier, sizes
from mae_jax.tokens.positions import sincos, with_prefix

# Constructor arguments that change nothing in eval mode, or only the initialisation.
INERT = (
    "drop_rate", "attn_drop_rate", "drop_path_rate", "init_std", "fix_init_weight", "init_scale", "vocab_size",
)  # fmt: skip
RECOMPUTED = "fixed sine-cosine table: recomputed, and equal to ours"
# Arguments of which ours covers one value.
ONLY: Mapping[str, tuple[Any, ...]] = {
    "qk_scale": (None,), "attn_head_dim": (None,), "use_rel_pos_bias": (False,), "use_shared_rel_pos_bias": (False,),
    "sin_pos_emb": (True,), "model_type": ("cae",),
}  # fmt: skip
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # (out, in, h, w) <-> HWIO


# The pretraining model ----------------------------------------------------------------------------


def pretraining_rules(method: CAE) -> Rules:
    """Name map of `ContextAutoencoderViT`."""
    block, mine = r"regresser.regressor_blocks.{i:\d+}", "regressor/blocks/{i}"
    scaled: list[Rule | Constant] = [Rule(f"{block}.gamma_{{k:[12]}}_cross", f"{mine}/scale{{k}}/gamma")]
    if not method.decoder_layer_scale:
        names = [
            f"regresser.regressor_blocks.{i}.gamma_{k}_cross" for i in range(method.regressor_depth) for k in (1, 2)
        ]
        reason = "factors of 1 that are not trained: the model has no layer scale"
        scaled = [Constant(name, np.ones(method.decoder_dim, np.float32), reason) for name in names]
    return [
        *encoder_rules(method.channels, sizes(method.patch), "encoder."),
        Constant("encoder.pos_embed", _table(method.dim, method.grid), RECOMPUTED),
        Constant("rd_pos_embed", _table(method.decoder_dim, method.grid), RECOMPUTED),
        Unused("alignment_encoder.{rest:.*}", "the encoder once more: the authors copy it at every step"),
        *parts.linear("encoder_to_regresser", "projection/embed"),
        *parts.norm("encoder_to_regresser_norm", "projection/norm"),
        Rule("mask_token", "regressor/mask_token"),
        *parts.norm(f"{block}.norm1_{{k:[qkv]}}", f"{mine}/norm1_{{k}}"),
        *parts.norm(f"{block}.norm2_cross", f"{mine}/norm2"),
        *_attention(f"{block}.cross_attn", f"{mine}/attn"),
        *parts.linear(f"{block}.mlp_cross.{{layer:fc1|fc2}}", f"{mine}/mlp/{{layer}}"),
        *scaled,
        *parts.norm("regresser.norm", "regressor/norm"),
        *_blocks("decoder.decoder_blocks", "decoder/blocks"),
        *parts.norm("decoder.norm", "decoder/norm"),
        *parts.linear("decoder.head", "decoder/head"),
    ]


def encoder_rules(channels: int, patch: tuple[int, ...], prefix: str = "") -> list[Rule]:
    """Name map of the ViT that pretraining and classifier share, without its positions."""
    return [
        Rule(f"{prefix}cls_token", "encoder/class_token"),
        *parts.patch_embed(f"{prefix}patch_embed.proj", "encoder/patch_embed", channels, patch),
        *_blocks(f"{prefix}blocks", "encoder/blocks"),
        *parts.norm(f"{prefix}norm", "encoder/norm"),
    ]


def _blocks(theirs: str, ours: str) -> list[Rule]:
    """BEiT's blocks: q and v biases apart, layer scale."""
    block, mine = theirs + r".{i:\d+}", ours + "/{i}"
    return [
        *parts.blocks(theirs, ours),
        Rule(f"{block}.attn.{{name:[qv]_bias}}", f"{mine}/attn/{{name}}"),
        Rule(f"{block}.gamma_{{k:[12]}}", f"{mine}/scale{{k}}/gamma"),
    ]


def _attention(theirs: str, ours: str) -> list[Rule]:
    """Cross attention with projections of its own for q, k and v."""
    return [
        Rule(f"{theirs}.{{layer:[qkv]}}.weight", f"{ours}/{{layer}}/kernel", transpose),
        Rule(f"{theirs}.{{layer:[qv]}}_bias", f"{ours}/{{layer}}/bias"),
        *parts.linear(f"{theirs}.proj", f"{ours}/proj"),
    ]


def pretraining_method(config: Mapping[str, Any]) -> CAE:
    """Our method from the arguments of `ContextAutoencoderViT`, the number of masked patches and the loss weight."""
    known = {
        "img_size": 224, "patch_size": 16, "in_chans": 3, "embed_dim": 768, "depth": 12, "num_heads": 12,
        "mlp_ratio": 4.0, "qkv_bias": True, "init_values": REQUIRED, "decoder_embed_dim": 768, "regressor_depth": 4,
        "decoder_depth": 4, "decoder_num_classes": 8192, "decoder_num_heads": 12,
        "decoder_layer_scale_init_value": 0.1, "norm_eps": 1e-6, "n_mask": REQUIRED, "align_loss_weight": 2.0,
    }  # fmt: skip
    o = options(config, known, what="ContextAutoencoderViT", only=ONLY, inert=INERT)
    method = CAE(
        image_size=_square(o["img_size"]), patch=_square(o["patch_size"]), channels=o["in_chans"], dim=o["embed_dim"],
        depth=o["depth"], heads=o["num_heads"], mlp_ratio=float(o["mlp_ratio"]), layer_scale=float(o["init_values"]),
        qkv_bias=o["qkv_bias"], decoder_dim=o["decoder_embed_dim"], decoder_heads=o["decoder_num_heads"],
        decoder_layer_scale=float(o["decoder_layer_scale_init_value"]), regressor_depth=o["regressor_depth"],
        decoder_depth=o["decoder_depth"], norm_eps=float(o["norm_eps"]), drop_path=0.0, tokenizer="kmeans",
        vocab=o["decoder_num_classes"], masked=o["n_mask"], masking="random",
        align_weight=float(o["align_loss_weight"]),
    )  # fmt: skip
    method.check()
    return method


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient on the stored images; masks and codes are the stored ones."""
    method = pretraining_method(golden.config)
    rules = pretraining_rules(method)
    image = jnp.asarray(golden.channels_last("imgs", (*sizes(method.image_size), method.channels)))
    given = {
        "mask": jnp.asarray(golden.input("mask"), jnp.float32),
        "codes": jnp.asarray(golden.input("token_ids")),
    }
    if not (given["mask"].sum(axis=1) == method.masked).all():
        raise UserError(f"n_mask={method.masked} is not what the stored masks hide in every image.")
    template, _ = jax.eval_shape(lambda image: method.init(jax.random.key(0), {"image": image}), image)
    tokenizer = jax.eval_shape(method.codebook.init, jax.random.key(0), image)["params"]
    frozen = {"tokenizer": jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tokenizer)}  # the codes are given

    def loss(params: dict[str, Any]) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
        context = Context(jax.random.key(0), given=given)
        rest = {"stats": {}, "ema": {}, "frozen": frozen}
        value, aux = method.loss(params, rest, {"image": image, "image_2": image}, context)
        return value, (aux.seen, aux.metrics)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, (seen, metrics)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {
            "latent": seen["latent"],
            "logits": seen["logits"].reshape(-1, method.vocab),  # over (image, masked patch)
            "latent_predict": seen["latent_predict"],
            "latent_target": seen["latent_target"],
            "loss_ce": metrics["ce"],
            "loss_align": metrics["align"],
            "loss": value,
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, template)


# The classifier -----------------------------------------------------------------------------------


def classifier_net(config: Mapping[str, Any]) -> tuple[Classifier, int]:
    """Our network and its input channels from the arguments of `modeling_finetune.VisionTransformer`."""
    known = {
        "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dim": 768, "depth": 12,
        "num_heads": 12, "mlp_ratio": 4.0, "qkv_bias": False, "norm_eps": 1e-6, "init_values": REQUIRED,
        "use_mean_pooling": True, "lin_probe": False,
    }  # fmt: skip
    # Attentive probing fails in the authors' code as published: there is nothing to compare with.
    o = options(config, known, what="VisionTransformer", only={**ONLY, "linear_type": ("standard",)}, inert=INERT)
    if o["num_classes"] < 1:
        raise UserError(f"VisionTransformer with num_classes={o['num_classes']} has no head to compare.")
    shape = Transformer(
        o["embed_dim"], o["depth"], o["num_heads"], float(o["mlp_ratio"]), "qv" if o["qkv_bias"] else False,
        norm_eps=float(o["norm_eps"]), layer_scale=float(o["init_values"]) or None,
    )  # fmt: skip
    pool: Any = "class"
    if o["use_mean_pooling"]:  # the last norm is then none, also for a linear probe, which reads the class token
        pool = "raw_class" if o["lin_probe"] else "mean"
    size, patch = _square(o["img_size"]), _square(o["patch_size"])
    net = Classifier(
        shape, classes=o["num_classes"], size=(size, size), patch=(patch, patch), pool=pool, positions="sincos",
        first="row",
    )  # fmt: skip
    return net, o["in_chans"]


def classifier_rules(net: Classifier, channels: int) -> Rules:
    """Name map of `modeling_finetune.VisionTransformer`, for fine-tuning and for linear probing."""
    grid = tuple(s // p for s, p in zip(net.size, net.patch))
    return [
        *encoder_rules(channels, net.patch),
        Constant("pos_embed", _table(net.shape.dim, grid), RECOMPUTED),
        *parts.norm("fc_norm", "fc_norm"),
        *parts.linear("head", "head"),
    ]


def prepare_classifier(golden: Golden) -> Prepared:
    """Features, logits, mean cross entropy and its gradient in eval mode."""
    net, channels = classifier_net(golden.config)
    rules = classifier_rules(net, channels)
    image = jnp.asarray(golden.channels_last("imgs", (*net.size, channels)))
    labels = jnp.asarray(golden.input("labels"))
    template = jax.eval_shape(lambda image: net.init(jax.random.key(0), image)["params"], image)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        outputs: Any = net.apply({"params": params}, image)
        logits, features = outputs
        return cross_entropy(logits, labels).mean(), (logits, features)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, (logits, features)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {"features": features, "logits": logits, "loss": value, **gradient_norms(rules, gradient)}

    return Prepared(run, rules, template)


# The tokenizer ------------------------------------------------------------------------------------


def dalle_rules() -> Rules:
    """Name map of `dall_e.encoder.Encoder`."""
    block, mine = "blocks.group_{g}.block_{i}", "group_{g}_block_{i}"
    places = {
        "blocks.input": "input", f"{block}.id_path": f"{mine}/identity", "blocks.output.conv": "output",
        f"{block}.res_path.{{conv:conv_[1-4]}}": f"{mine}/{{conv}}",
    }  # fmt: skip
    kernels = [Rule(f"{theirs}.w", f"{ours}/kernel", CONV) for theirs, ours in places.items()]
    return [*kernels, *(Rule(f"{theirs}.b", f"{ours}/bias") for theirs, ours in places.items())]


def prepare_tokenizer(golden: Golden) -> Prepared:
    """Logits and codes of an image in [0, 1]."""
    known = {"n_hid": 256, "n_blk_per_group": 2, "vocab_size": 8192}
    only: dict[str, tuple[Any, ...]] = {"group_count": (4,), "input_channels": (3,)}
    inert = ("device", "requires_grad", "use_mixed_precision")  # half precision is for GPUs only
    o = options(golden.config, known, what="dall_e.encoder.Encoder", only=only, inert=inert)
    net = DalleEncoder(o["vocab_size"], o["n_hid"], o["n_blk_per_group"])
    image = jnp.asarray(golden.channels_last("imgs01"))
    template = jax.eval_shape(lambda image: net.init(jax.random.key(0), image)["params"], image)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        logits: Any = jax.jit(lambda p: net.apply({"params": p}, image))(params)
        grid = tuple(side // 8 for side in image.shape[1:3])
        logits = logits.reshape(-1, *grid, net.vocab)
        return {"logits": logits.transpose(0, 3, 1, 2), "codes": logits.argmax(axis=3)}

    return Prepared(run, dalle_rules(), template)


CASES = {
    "models.modeling_cae.ContextAutoencoderViT (model_type cae)": prepare_pretraining,
    "models.modeling_finetune.VisionTransformer": prepare_classifier,
    "dall_e.encoder.Encoder": prepare_tokenizer,
}


def _square(value: Any) -> int:
    """A size of equal sides: the authors' position table of any other grid is not in the order of its patches."""
    rows, columns = sizes(value if isinstance(value, int) else tuple(value))
    if rows != columns:
        raise UserError(f"The official code with size {rows} x {columns} mixes up its positions; ours covers squares.")
    return rows


def _table(dim: int, grid: tuple[int, ...]) -> np.ndarray:
    """The official fixed table (1, 1 + n, dim), rows first, a zero class row in front."""
    return with_prefix(sincos(dim, grid, first="row"), 1)[None]
