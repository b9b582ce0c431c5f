"""MCG-NJU/VideoMAE: the pretraining model, the classifier, and what its recipe is made of.

Names are those of the official state dicts; weights on their side are torch's, clips [b, t, h, w, c] in uint8.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.types import Aux
from mae_jax.data.multi_scale_crop import SCALES, crop_offsets, crop_pairs
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Rule, Rules, their_names
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.losses.cross_entropy import cross_entropy
from mae_jax.methods.videomae import VideoMAE
from mae_jax.nets.block import Transformer
from mae_jax.nets.vit import Classifier, sizes
from mae_jax.tokens.positions import flat_sincos
from mae_jax.train.optimizers import FINETUNE_DECAY, decay_multipliers, layer_scales
from mae_jax.train.schedules import warmup_cosine

# Constructor arguments that change nothing in eval mode, or only the initialisation, or are never read.
INERT = (
    "drop_rate", "attn_drop_rate", "drop_path_rate", "fc_drop_rate", "head_drop_rate", "init_scale", "use_checkpoint",
    "with_cp", "num_classes", "in_chans",
)  # fmt: skip
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# The pretraining model ------------------------------------------------------------------------------------------------


def pretraining_rules(channels: int, cut: tuple[int, ...]) -> Rules:
    """Name map of `PretrainVisionTransformer`, here and in VideoMAE V2; released files hold the same names."""
    return [
        *parts.patch_embed("encoder.patch_embed.proj", "encoder/patch_embed", channels, cut),
        *parts.beit_blocks("encoder.blocks", "encoder/blocks"),
        *parts.norm("encoder.norm", "encoder/norm"),
        parts.linear("encoder_to_decoder", "decoder/embed")[0],
        Rule("mask_token", "decoder/mask_token"),
        *parts.beit_blocks("decoder.blocks", "decoder/blocks"),
        *parts.norm("decoder.norm", "decoder/norm"),
        *parts.linear("decoder.head", "decoder/pred"),
    ]


def pretraining_fields(
    config: Mapping[str, Any], frames: int, more: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the fields that both versions share, every argument) from `PretrainVisionTransformer`'s arguments."""
    known = {
        "img_size": 224, "patch_size": 16, "tubelet_size": 2, "encoder_in_chans": 3, "encoder_embed_dim": 768,
        "encoder_depth": 12, "encoder_num_heads": 12, "decoder_num_classes": 1536, "decoder_embed_dim": 512,
        "decoder_depth": 8, "decoder_num_heads": 8, "mlp_ratio": 4.0, "qkv_bias": False, "qk_scale": None,
        "init_values": 0.0, "norm_eps": 1e-6, "mask_ratio": 0.9, "norm_target": True,
    }  # fmt: skip
    only: dict[str, tuple[Any, ...]] = {"encoder_num_classes": (0,), "use_learnable_pos_emb": (False,)}
    o = options(config, known | dict(more or {}), what="PretrainVisionTransformer", only=only, inert=INERT)
    fields = dict(
        frames=frames, image_size=_pair(o["img_size"]), tubelet=o["tubelet_size"], patch=_pair(o["patch_size"]),
        channels=o["encoder_in_chans"], dim=o["encoder_embed_dim"], depth=o["encoder_depth"],
        heads=o["encoder_num_heads"], mlp_ratio=float(o["mlp_ratio"]), decoder_dim=o["decoder_embed_dim"],
        decoder_depth=o["decoder_depth"], decoder_heads=o["decoder_num_heads"], mask_ratio=float(o["mask_ratio"]),
        norm_pix=bool(o["norm_target"]), mean=MEAN, std=STD, norm_eps=float(o["norm_eps"]),
        qkv_bias="qv" if o["qkv_bias"] else False, qk_scale=o["qk_scale"] or None,
        layer_scale=float(o["init_values"] or 0.0),
    )  # fmt: skip
    return fields, o


def pretraining_method(config: Mapping[str, Any], frames: int = 16) -> VideoMAE:
    """Our method; the official model is told neither the number of frames (16) nor how much is masked."""
    fields, o = pretraining_fields(config, frames)
    method = VideoMAE(**fields)
    check_out(o, method)
    return method


def check_out(o: Mapping[str, Any], method: Any) -> None:
    """Check the method, and that the decoder predicts as many values as a token has."""
    method.check()
    out = int(np.prod(method.cut)) * method.channels
    if o["decoder_num_classes"] != out:
        raise UserError(f"decoder_num_classes={o['decoder_num_classes']}, but a token has {out} values.")


def clip(golden: Golden) -> jax.Array:
    """The stored uint8 clips as their loader normalises them."""
    video = jnp.asarray(golden.input("video"), jnp.float32) / 255
    mean, std = (jnp.asarray(x).reshape(1, 1, 1, 1, 3) for x in (MEAN, STD))
    return (video - mean) / std


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient on the stored clips and masks; the first rows of both position tables."""
    method = pretraining_method(golden.config, golden.input("video").shape[1])

    def outputs(seen: Mapping[str, jax.Array]) -> dict[str, Any]:
        n = method.counts[0]
        return {
            "latent": seen["latent"], "pred": seen["pred"], "target": seen["target"],
            "pos_embed_head": flat_sincos(method.dim, n)[:4],
            "dec_pos_embed_head": flat_sincos(method.decoder_dim, n)[:4],
        }  # fmt: skip

    return prepared(golden, method, {}, outputs)


def prepared(
    golden: Golden,
    method: Any,
    given: Mapping[str, jax.Array],
    outputs: Callable[[Mapping[str, jax.Array]], dict[str, Any]],
) -> Prepared:
    """Loss, gradient norms and `outputs(Aux.seen)` of either version, under the stored mask of the encoder."""
    rules, video = pretraining_rules(method.channels, method.cut), clip(golden)
    hidden = np.asarray(golden.input("mask"), bool)
    (n, k), b = method.counts, len(video)
    if hidden.shape != (b, n) or not ((~hidden).sum(axis=1) == k).all():
        raise UserError(f"in/mask {hidden.shape} does not leave {k} of {n} tokens visible in each of {b} clips.")
    given = {"scores": jnp.asarray(hidden, jnp.float32), **given}
    template, _ = jax.eval_shape(lambda v: method.init(jax.random.key(0), {"video": v}), video)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, Aux]:
        context = Context(jax.random.key(0), given=given)
        return method.loss(params, {"stats": {}, "ema": {}, "frozen": {}}, {"video": video}, context)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, aux), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {"loss": value, **outputs(aux.seen), **gradient_norms(rules, gradient)}

    return Prepared(run, rules, template)


# The classifier -------------------------------------------------------------------------------------------------------


def classifier_rules(channels: int, cut: tuple[int, ...]) -> Rules:
    """Name map of `VisionTransformer`, here and in VideoMAE V2."""
    return [
        *parts.patch_embed("patch_embed.proj", "encoder/patch_embed", channels, cut),
        Rule("pos_embed", "encoder/pos_embed"),
        *parts.beit_blocks("blocks", "encoder/blocks"),
        *parts.norm("norm", "encoder/norm"),
        *parts.norm("fc_norm", "fc_norm"),
        *parts.linear("head", "head"),
    ]


def classifier_net(config: Mapping[str, Any]) -> tuple[Classifier, int]:
    """Our network and its input channels from `VisionTransformer`'s arguments, of either version."""
    known = {
        "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dim": 768, "depth": 12,
        "num_heads": 12, "mlp_ratio": 4.0, "qkv_bias": False, "qk_scale": None, "norm_eps": 1e-6, "init_values": 0.0,
        "use_learnable_pos_emb": False, "all_frames": 16, "tubelet_size": 2, "use_mean_pooling": True,
        "cos_attn": False,
    }  # fmt: skip
    o = options(config, known, what="VisionTransformer", inert=INERT)
    if o["num_classes"] < 1:
        raise UserError(f"VisionTransformer with num_classes={o['num_classes']} has no head to compare.")
    shape = Transformer(
        o["embed_dim"], o["depth"], o["num_heads"], float(o["mlp_ratio"]), "qv" if o["qkv_bias"] else False,
        o["qk_scale"] or None, float(o["norm_eps"]), float(o["init_values"] or 0.0) or None, cosine=o["cos_attn"],
    )  # fmt: skip
    net = Classifier(
        shape, classes=o["num_classes"], size=(o["all_frames"], *_pair(o["img_size"])),
        patch=(o["tubelet_size"], *_pair(o["patch_size"])), class_token=False,
        pool="mean" if o["use_mean_pooling"] else "first",
        positions="learned" if o["use_learnable_pos_emb"] else "flat",
    )  # fmt: skip
    return net, o["in_chans"]


def prepare_classifier(golden: Golden) -> Prepared:
    """Features, logits, mean cross entropy and its gradient in eval mode."""
    net, channels = classifier_net(golden.config)
    rules, video, labels = classifier_rules(channels, net.patch), clip(golden), jnp.asarray(golden.input("label"))
    template = jax.eval_shape(lambda v: net.init(jax.random.key(0), v)["params"], video)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        outputs: Any = net.apply({"params": params}, video)
        logits, feature = outputs
        return cross_entropy(logits, labels).mean(), (logits, feature)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, (logits, feature)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {"feature": feature, "logits": logits, "loss": value, **gradient_norms(rules, gradient)}

    return Prepared(run, rules, template)


# Recipe ---------------------------------------------------------------------------------------------------------------


def prepare_recipe(golden: Golden) -> Prepared:
    """The rate of every step, the fine-tuning groups of named parameters, and the choices of the multi-scale crop."""
    known = {
        "base_lr": REQUIRED, "final_lr": REQUIRED, "epochs": REQUIRED, "steps_per_epoch": REQUIRED, "warmup_epochs": 0,
        "start_warmup_value": 0.0, "warmup_steps": -1, "layer_decay": 1.0, "depth": 12, "param_names": (),
        "weight_decay": None, "image_w_h": REQUIRED, "crop": 224, "scales": SCALES, "max_distort": 1,
    }  # fmt: skip
    o = options(golden.config, known, what="The recipe's file", only={"fix_crop": (True,), "more_fix_crop": (True,)})

    def run(params: dict[str, Any]) -> dict[str, Any]:
        steps, warmup = o["epochs"] * o["steps_per_epoch"], o["warmup_epochs"] * o["steps_per_epoch"]
        warmup = o["warmup_steps"] if o["warmup_steps"] > 0 else warmup
        rate = warmup_cosine(o["base_lr"], warmup, steps, o["final_lr"], start=o["start_warmup_value"], warm_last=1)
        w, h = o["image_w_h"]
        crop = o["crop"] if isinstance(o["crop"], int) else tuple(reversed(o["crop"]))
        pairs = crop_pairs(h, w, crop, o["scales"], o["max_distort"])
        out = {
            "lr": np.array([rate(step) for step in range(steps)]), "crop_pairs": pairs,
            "crop_offsets": np.stack([crop_offsets(h, w, crop_h, crop_w) for crop_w, crop_h in pairs.tolist()]),
        }  # fmt: skip
        base = float(golden.outputs.get("weight_decay", np.zeros(1)).max()) if o["weight_decay"] is None else None
        decay = o["weight_decay"] if base is None else base  # the file does not say it apart
        return out | _groups(o["param_names"], o["depth"], o["layer_decay"], decay)

    return Prepared(run)


def _groups(names: Sequence[str], depth: int, layer_decay: float, weight_decay: float) -> dict[str, np.ndarray]:
    """Rate and decay of the classifier's parameters of these names; nan, which never passes, where ours has none."""

    def shapes(**more: Any) -> Any:
        shape = Transformer(8, depth, 2, qkv_bias="qv", layer_scale=0.1)
        net = Classifier(shape, classes=2, size=(2, 4, 4), patch=(2, 4, 4), class_token=False, **more)
        return jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 2, 4, 4, 3)))["params"])

    rules = classifier_rules(3, (2, 4, 4))
    scales: dict[str, float] = {}
    decays: dict[str, float] = {}
    for template in (shapes(pool="first"), shapes(pool="mean")):  # with either norm
        for path, value in layer_scales(template, layer_decay).items():
            scales |= dict.fromkeys(their_names(rules, path), value)
        for path, value in decay_multipliers(template, FINETUNE_DECAY).items():
            decays |= dict.fromkeys(their_names(rules, path), weight_decay * value)
    return {
        "lr_scale": np.array([scales.get(n, np.nan) for n in names]),
        "weight_decay": np.array([decays.get(n, np.nan) for n in names]),
    }


CASES = {
    "PretrainVisionTransformer": prepare_pretraining,
    "VisionTransformer": prepare_classifier,
    "cosine_scheduler, LayerDecayValueAssigner, GroupMultiScaleCrop": prepare_recipe,
}


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A size that the file gives once or as [rows, columns]."""
    rows, columns = sizes(value if isinstance(value, int) else tuple(value))
    return rows, columns
