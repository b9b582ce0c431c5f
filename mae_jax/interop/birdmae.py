"""facebookresearch/AudioMAE and DBD-research-group/Bird-MAE: pretraining, classifier, prototypical probing.

Spectrograms on their side are [b, 1, time, mel]; state dicts have timm's names. The released files: Audio-MAE's
pretrained.pth has the names of `audiomae_rules`, its finetuned.pth those of `classifier_rules`; Bird-MAE's checkpoints
those of `birdmae_rules`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Constant, Rule, Rules, Transform, Unused, transpose
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.losses.asymmetric import asymmetric
from mae_jax.methods.birdmae import BirdMAE
from mae_jax.nets.compute import Compute
from mae_jax.nets.layers import apply
from mae_jax.nets.prototypes import PrototypeHead, feature_map, orthogonality
from mae_jax.nets.vit import sizes
from mae_jax.tokens.positions import sincos, with_prefix
from mae_jax.transfer.finetune import FineTune

RECOMPUTED = "fixed sine-cosine table: recomputed, and equal to ours"
REST: Any = {"stats": {}, "ema": {}, "frozen": {}}
# What their code takes for other experiments, and reads nowhere in these.
INERT = ("alpha", "temperature", "mode", "contextual_depth", "split_pos", "use_nce", "beta", "epoch")


# Pretraining ------------------------------------------------------------------------------------------------------


def audiomae_rules(method: BirdMAE) -> Rules:
    """Name map of Audio-MAE's `MaskedAutoencoderViT`."""
    names = {"decoder_embed": "decoder_embed", "mask_token": "mask_token", "decoder_blocks": "decoder_blocks"}
    names |= {name: name for name in ("decoder_norm", "decoder_pred", "decoder_pos_embed")}
    return [*_encoder(method), *_decoder(method, names)]


def birdmae_rules(method: BirdMAE) -> Rules:
    """Name map of Bird-MAE's `AudioMAE`."""
    names = {"mask_token": "decoder.mask_token", "decoder_blocks": "decoder.blocks"}
    names |= {
        name: f"decoder.{name}" for name in ("decoder_embed", "decoder_norm", "decoder_pred", "decoder_pos_embed")
    }
    return [*_encoder(method, "encoder."), *_decoder(method, names)]


def _encoder(method: BirdMAE, prefix: str = "") -> Rules:
    return [
        Rule(f"{prefix}cls_token", "encoder/class_token"),
        *parts.patch_embed(f"{prefix}patch_embed.proj", "encoder/patch_embed", method.channels, sizes(method.patch)),
        *parts.blocks(f"{prefix}blocks", "encoder/blocks"),
        *parts.norm(f"{prefix}norm", "encoder/norm"),
        _positions(f"{prefix}pos_embed", "encoder", method, method.dim, method.learned_positions),
    ]


def _decoder(method: BirdMAE, names: Mapping[str, str]) -> Rules:
    block, mine = names["decoder_blocks"] + r".{i:\d+}", "decoder/blocks/{i}"
    rules: list[Rule | Constant | Unused] = [
        *parts.linear(names["decoder_embed"], "decoder/embed"),
        Rule(names["mask_token"], "decoder/mask_token"),
        *parts.blocks(names["decoder_blocks"], "decoder/blocks"),
        *parts.norm(names["decoder_norm"], "decoder/norm"),
        *parts.linear(names["decoder_pred"], "decoder/pred"),
        _positions(
            names["decoder_pos_embed"], "decoder", method, method.decoder_dim, method.decoder_learned_positions
        ),
    ]  # fmt: skip
    if method.decoder_blocks == "window":
        rules += [
            Rule(f"{block}.attn.tau", f"{mine}/attn/temperature"),
            *parts.linear(f"{block}.attn.meta_mlp.{{layer:fc1|fc2}}", f"{mine}/attn/position_{{layer}}"),
        ]
    elif method.decoder_blocks == "window_v2":
        flat = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(-1, 1, 1))
        rules += [
            Rule(f"{block}.attn.logit_scale", f"{mine}/attn/temperature", flat),
            *parts.linear(f"{block}.attn.cpb_mlp.0", f"{mine}/attn/position_fc1"),
            Rule(f"{block}.attn.cpb_mlp.2.weight", f"{mine}/attn/position_fc2/kernel", transpose),
            Unused(f"{block}.attn.{{which:q_bias|v_bias}}", "their code adds them to a result that it does not use"),
        ]
    return rules


def _positions(theirs: str, part: str, method: BirdMAE, dim: int, learned: bool) -> Rule | Constant:
    if learned:
        return Rule(theirs, f"{part}/pos_embed")
    return Constant(theirs, table(method, dim), RECOMPUTED)


def table(method: BirdMAE, dim: int) -> np.ndarray:
    """The fixed positions [1, 1 + n, dim] of encoder or decoder."""
    return with_prefix(sincos(dim, method.grid, transposed=method.transposed), 1)[None]


def audiomae_method(config: Mapping[str, Any]) -> BirdMAE:
    """Our method from the arguments of Audio-MAE's `MaskedAutoencoderViT`, and `mask_ratio` of its forward."""
    known = {
        "img_size": 224, "patch_size": 16, "stride": 10, "in_chans": 3, "embed_dim": 1024, "depth": 24, "num_heads": 16,
        "decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16, "mlp_ratio": 4.0, "norm_eps": 1e-6,
        "norm_pix_loss": False, "audio_exp": False, "use_custom_patch": False, "pos_trainable": False,
        "decoder_mode": 0, "mask_t_prob": 0.6, "mask_f_prob": 0.5, "mask_2d": False, "no_shift": False,
        "mask_ratio": 0.8,
    }  # fmt: skip
    o = options(config, known, what="MaskedAutoencoderViT", only={"decoder_mode": (0, 1)}, inert=INERT)
    if o["in_chans"] != (1 if o["audio_exp"] else 3):
        raise UserError(
            f"MaskedAutoencoderViT with audio_exp={o['audio_exp']} and in_chans={o['in_chans']} has no counterpart "
            f"here: their patches are of 1 channel with audio_exp, else of 3."
        )
    overlapped, windowed = bool(o["use_custom_patch"]), o["decoder_mode"] == 1
    window = 6 if overlapped else 4
    return _checked(BirdMAE(
        spectrogram_size=_pair(o["img_size"]), patch=_pair(o["patch_size"]), channels=o["in_chans"],
        stride=_pair(o["stride"]) if overlapped else None, dim=o["embed_dim"], depth=o["depth"], heads=o["num_heads"],
        mlp_ratio=float(o["mlp_ratio"]), decoder_mlp_ratio=float(o["mlp_ratio"]), norm_eps=float(o["norm_eps"]),
        decoder_blocks="window" if windowed else "plain", decoder_dim=o["decoder_embed_dim"],
        decoder_depth=16 if windowed else o["decoder_depth"],  # fixed in their code
        decoder_heads=16 if windowed else o["decoder_num_heads"],
        window=(window, window), shift=(0 if o["no_shift"] else 2, 0), mask="lines" if o["mask_2d"] else "random",
        mask_ratio=float(o["mask_ratio"]), mask_time=float(o["mask_t_prob"]), mask_mel=float(o["mask_f_prob"]),
        norm_pix=bool(o["norm_pix_loss"]), transposed=not overlapped, learned_positions=bool(o["pos_trainable"]),
        decoder_learned_positions=bool(o["pos_trainable"]),
    ))  # fmt: skip


def birdmae_method(config: Mapping[str, Any]) -> BirdMAE:
    """Our method from the arguments of Bird-MAE's `AudioMAE` and of its encoder and decoder."""
    o = options(
        config, {"encoder": REQUIRED, "decoder": REQUIRED, "mask_ratio": 0.75, "norm_pix_loss": True}, what="AudioMAE",
        inert=("optimizer", "scheduler", "loss", "norm_layer"),
    )  # fmt: skip
    known: dict[str, Any] = {
        "img_size_x": 512, "img_size_y": 128, "patch_size": 16, "in_chans": 1, "embed_dim": 768, "depth": 12,
        "num_heads": 12, "mlp_ratio": 4, "pos_trainable": False,
    }  # fmt: skip
    e = options(o["encoder"], known, what="AudioMAE's encoder", only={"in_chans": (1,)})
    known = {
        "embed_dim": 512, "depth": 8, "num_heads": 16, "mlp_ratio": 4, "mode": "std", "no_shift": False,
        "pos_trainable": False, "patch_size": e["patch_size"],
    }  # fmt: skip
    d = options(o["decoder"], known, what="AudioMAE's decoder", only={"patch_size": (e["patch_size"],)})
    kinds: dict[str, Literal["plain", "window", "window_v2"]] = {"swin": "window", "swinv2": "window_v2"}
    return _checked(BirdMAE(
        spectrogram_size=(e["img_size_x"], e["img_size_y"]), patch=_pair(e["patch_size"]), dim=e["embed_dim"],
        depth=e["depth"], heads=e["num_heads"], mlp_ratio=float(e["mlp_ratio"]), learned_positions=e["pos_trainable"],
        decoder_blocks=kinds.get(d["mode"], "plain"),  # every other name means ordinary blocks there
        decoder_dim=d["embed_dim"], decoder_depth=d["depth"], decoder_heads=d["num_heads"],
        decoder_mlp_ratio=float(d["mlp_ratio"]), decoder_learned_positions=d["pos_trainable"],
        shift=(0 if d["no_shift"] else 2, 0), mask_ratio=float(o["mask_ratio"]), norm_pix=bool(o["norm_pix_loss"]),
    ))  # fmt: skip


def prepare_audiomae(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient on the stored spectrograms, the stored noise in the place of the mask's draws."""
    method = audiomae_method(golden.config)
    if method.decoder_blocks != "plain":  # its 16 blocks as a loop compile three times as fast
        method = dataclasses.replace(method, compute=Compute(scan=True))
    return _pretraining(golden, method, audiomae_rules(method))


def prepare_birdmae(golden: Golden) -> Prepared:
    """The same of Bird-MAE."""
    method = birdmae_method(golden.config)
    return _pretraining(golden, method, birdmae_rules(method))


def _pretraining(golden: Golden, method: BirdMAE, rules: Rules) -> Prepared:
    batch = _batch(golden, method)
    names = (
        {"mask": "noise"} if method.mask == "random" else {"mask_rows": "noise_0_time", "mask_columns": "noise_1_freq"}
    )
    given = {ours: jnp.asarray(golden.input(theirs)) for ours, theirs in names.items()}
    template, _ = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))

    def loss(params: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, aux = method.loss(params, REST, batch, Context(jax.random.key(0), train=False, given=given))
        return value, aux.seen

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, seen), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {
            "latent": seen["latent"],
            "pred": seen["pred"],
            "mask": seen["hidden"].astype(jnp.float32),
            "ids_restore": seen["restore_ids"],
            "loss": value,
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, template)


# Fine-tuning ------------------------------------------------------------------------------------------------------


def classifier_rules(method: BirdMAE) -> Rules:
    """Name map of Audio-MAE's `VisionTransformer` with mean pooling."""
    return [*_encoder(method), *parts.norm("fc_norm", "fc_norm"), *parts.linear("head", "head")]


def classifier_method(config: Mapping[str, Any], channels: int = 1) -> FineTune:
    """Our classifier from the arguments of Audio-MAE's `VisionTransformer`, and the shares that its forward drops."""
    known = {
        "img_size": [1024, 128], "patch_size": 16, "stride": 10, "in_chans": channels, "num_classes": 527,
        "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0, "norm_eps": 1e-6, "use_custom_patch": False,
        "mask_t_prob": 0.0, "mask_f_prob": 0.0,
    }  # fmt: skip
    only = {"global_pool": (True,), "qkv_bias": (True,)}  # without pooling their code reads a norm that it has deleted
    inert = ("mask_2d", "drop_rate", "attn_drop_rate", "drop_path_rate")  # mask_2d is read nowhere
    o = options(config, known, what="models_vit.VisionTransformer", only=only, inert=inert)
    overlapped = bool(o["use_custom_patch"])
    inner = _checked(BirdMAE(
        spectrogram_size=_pair(o["img_size"]), patch=_pair(o["patch_size"]), channels=o["in_chans"],
        stride=_pair(o["stride"]) if overlapped else None, dim=o["embed_dim"], depth=o["depth"], heads=o["num_heads"],
        mlp_ratio=float(o["mlp_ratio"]), norm_eps=float(o["norm_eps"]), drop_time=float(o["mask_t_prob"]),
        drop_mel=float(o["mask_f_prob"]), transposed=not overlapped, learned_positions=True, decoder_dim=16,
        decoder_heads=1, decoder_depth=1,
    ))  # fmt: skip
    return FineTune(inner=inner, classes=o["num_classes"], pool="mean")


def prepare_classifier(golden: Golden) -> Prepared:
    """Features and logits of whole spectrograms; logits, binary cross entropy and gradient with lines dropped."""
    method = classifier_method(golden.config, golden.weights["patch_embed.proj.weight"].shape[1])
    assert isinstance(method.inner, BirdMAE)
    rules = classifier_rules(method.inner)
    batch, labels = _batch(golden, method.inner), jnp.asarray(golden.input("labels"))
    given = {"drop_rows": "noise_0_time", "drop_columns": "noise_1_freq"}
    draws = {ours: jnp.asarray(golden.input(theirs)) for ours, theirs in given.items() if theirs in golden.inputs}
    template, _ = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))

    def loss(params: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        logits, _, _ = method.logits(params, REST, batch, ctx=Context(jax.random.key(0), given=draws), train=True)
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), logits

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, dropped), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        logits, features, _ = jax.jit(lambda p: method.logits(p, REST, batch))(params)
        return {
            "logits": logits,
            "features": features,
            "logits_masked": dropped,
            "loss_masked": value,
            "loss": optax.sigmoid_binary_cross_entropy(logits, labels).mean(),
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, template)


# Prototypical probing ---------------------------------------------------------------------------------------------


def prototype_rules(method: BirdMAE, head: PrototypeHead) -> Rules:
    """Name map of Bird-MAE's `VIT_ppnet`."""
    lead, size = (head.classes, head.per_class), head.size
    vectors = Transform(
        lambda x: x.transpose(0, 2, 3, 1).reshape(*lead, *size, -1),
        lambda x: x.reshape(-1, *size, x.shape[-1]).transpose(0, 3, 1, 2),
    )  # fmt: skip
    return [
        *_encoder(method),
        Rule("ppnet.prototype_vectors", "head/prototypes", vectors),
        Rule("ppnet.frequency_weights", "head/frequency"),
        Rule("ppnet.last_layer.weight", "head/last/kernel"),
        Rule("ppnet.last_layer.bias", "head/last/bias"),
    ]


def prototype_nets(config: Mapping[str, Any]) -> tuple[BirdMAE, PrototypeHead, bool]:
    """(encoder, head, whether the class token is subtracted) from the arguments of `VIT_ppnet` and of its head."""
    known: dict[str, Any] = {
        "img_size_x": 512, "img_size_y": 128, "patch_size": 16, "num_classes": REQUIRED, "embed_dim": 768, "depth": 12,
        "num_heads": 12, "mlp_ratio": 4.0, "eps": 1e-6, "ppnet": REQUIRED,
    }  # fmt: skip
    only: dict[str, tuple[Any, ...]] = {"in_chans": (1,), "qkv_bias": (True,)}
    inert: tuple[str, ...] = (
        "global_pool",
        "drop_path",
        "mask_t_prob",
        "mask_f_prob",
        "mask2d",
        "ema_update_rate",
        "target_length",
    )
    o = options(config, known, what="VIT_ppnet", only=only, inert=inert)
    known = {
        "num_prototypes": 20, "h_prototypes": 1, "w_prototypes": 1, "add_on_layers_type": "upsample", "topk_k": 1,
        "incorrect_class_connection": None, "correct_class_connection": 1.0, "bias_last_layer": -2.0,
        "non_negative_last_layer": True, "embedded_spectrogram_height": None, "focal_similarity": True,
    }  # fmt: skip
    # Rates are the optimizer's; the margin acts in training alone, and on a call that says which classes are wrong.
    inert = ("init_weights", "last_layer_lr", "prototype_lr", "margin", "num_classes", "channels_prototypes")
    only = {"add_on_layers_type": ("identity", "upsample")}
    p = options(o["ppnet"], known, what="PPNet", only=only, inert=inert)
    method = _checked(BirdMAE(
        spectrogram_size=(o["img_size_x"], o["img_size_y"]), patch=_pair(o["patch_size"]), dim=o["embed_dim"],
        depth=o["depth"], heads=o["num_heads"], mlp_ratio=float(o["mlp_ratio"]), norm_eps=float(o["eps"]),
        learned_positions=True, decoder_dim=16, decoder_heads=1, decoder_depth=1,
    ))  # fmt: skip
    head = PrototypeHead(
        o["num_classes"], p["num_prototypes"], (p["h_prototypes"], p["w_prototypes"]),
        upsample=p["add_on_layers_type"] == "upsample", top=p["topk_k"], weight=float(p["correct_class_connection"]),
        bias=p["bias_last_layer"] or None, non_negative=bool(p["non_negative_last_layer"]),
        other=p["incorrect_class_connection"] or None, rows=p["embedded_spectrogram_height"],
    )  # fmt: skip
    return method, head, bool(p["focal_similarity"])


def prepare_prototypes(golden: Golden) -> Prepared:
    """The head on the frozen encoder's map in eval mode, the asymmetric loss and its gradient through both."""
    method, head, focal = prototype_nets(golden.config)
    rules = prototype_rules(method, head)
    batch, labels = _batch(golden, method), jnp.asarray(golden.input("labels"))

    def maps(params: dict[str, Any]) -> jax.Array:
        return feature_map(method.encode({"encoder": params["encoder"]}, REST, batch), focal)

    def start() -> dict[str, Any]:
        encoder = {"encoder": method.init(jax.random.key(0), batch)[0]["encoder"]}
        return encoder | {"head": head.init(jax.random.key(0), maps(encoder))["params"]}

    def loss(params: dict[str, Any]) -> tuple[jax.Array, Any]:
        x = maps(params)
        logits, score, near = apply(head, params["head"], x)
        return asymmetric(logits, labels).mean(), (x, logits, score, near)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, (x, logits, score, near)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {
            "logits": logits,
            "loss": value,
            "max_similarity": score.reshape(len(score), -1),
            "grid": jnp.moveaxis(x, -1, 1),
            "orthogonality": orthogonality(jnp.asarray(params["head"]["prototypes"])),
            "similarity_item0": jnp.moveaxis(near[0, ..., :4], -1, 0),
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, jax.eval_shape(start))


CASES = {
    "MaskedAutoencoderViT (models_mae.py)": prepare_audiomae,
    "VisionTransformer (models_vit.py)": prepare_classifier,
    "AudioMAE (models/mae/audiomae.py)": prepare_birdmae,
    "VIT_ppnet + PPNet (models/vit/vit.py, models/ppnet/ppnet.py), AsymmetricLossMultiLabel": prepare_prototypes,
}


def _batch(golden: Golden, method: BirdMAE) -> dict[str, jax.Array]:
    shape = (*method.spectrogram_size, method.channels)
    return {"spectrogram": jnp.asarray(golden.channels_last("spec", shape))}


def _checked(method: BirdMAE) -> BirdMAE:
    method.check()
    return method


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A size that the file gives once or as [time, mel]."""
    time, mel = sizes(value if isinstance(value, int) else tuple(value))
    return time, mel
