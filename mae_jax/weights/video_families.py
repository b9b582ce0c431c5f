"""Published video ViTs as our VideoMAE (V2 with cosine attention): official files, and Hugging Face's folders."""

import re
from collections.abc import Mapping
from typing import Any

from mae_jax.core.errors import UserError
from mae_jax.interop import video_layouts as layouts
from mae_jax.interop.clip_vision_teacher import inner_ratio
from mae_jax.interop.names import Tensors
from mae_jax.weights.families import IMAGENET, Found, activation, block_count, floats, pair, plain, required
from mae_jax.weights.hints import Hints, agreed

DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}  # of both versions' published models
FRAMES, SIZE = 16, (224, 224)  # what an official file was trained on, which it does not say
HEAD_NORM = {"encoder/norm/": "the head norms the pooled tokens instead: ours scales by 1 and shifts by 0"}


def is_official(tensors: Tensors) -> bool:
    """Whether these are tensors of VideoMAE's code: its patches have a third axis."""
    names = ("encoder.patch_embed.proj.weight", "patch_embed.proj.weight")
    return any(name in tensors and tensors[name].ndim == 5 for name in names)


def official(tensors: Tensors, hints: Hints, where: str) -> Found:
    """A state dict of MCG-NJU/VideoMAE or OpenGVLab/VideoMAEv2: pretraining, classifier, or its encoder."""
    decoder = "mask_token" in tensors
    prefix = "encoder." if any(name.startswith("encoder.") for name in tensors) else ""
    if prefix and not decoder:  # of --as encoder
        tensors = {name.removeprefix("encoder."): x for name, x in tensors.items() if name.startswith("encoder.")}
        prefix = ""
    dim, channels, *cut = required(tensors, f"{prefix}patch_embed.proj.weight", where).shape
    block = f"{prefix}blocks.0"
    learned = "pos_embed" in tensors
    cosine = f"{block}.attn.scale" in tensors
    gamma = f"{block}.gamma_1" in tensors
    method: dict[str, Any] = {
        "name": "videomaev2" if cosine else "videomae", "frames": FRAMES, "tubelet": cut[0],
        "image_size": plain(hints.image_size or SIZE), "patch": plain((cut[1], cut[2])), "channels": channels,
        "dim": dim, "depth": block_count(tensors, rf"{re.escape(prefix)}blocks\.(\d+)\."), "heads": hints.heads_of(dim),
        "mlp_ratio": inner_ratio(required(tensors, f"{block}.mlp.fc1.weight", where).shape[0], dim),
        "norm_eps": hints.norm_eps or 1e-6, "qkv_bias": "qv" if f"{block}.attn.q_bias" in tensors else False,
        "layer_scale": 0.1 if gamma else 0.0, "positions": "learned" if learned else "flat",
    }  # fmt: skip
    method |= {"cosine": True} if cosine else {}
    if decoder:
        width = required(tensors, "encoder_to_decoder.weight", where).shape[0]
        heads = hints.decoder_heads or DECODER_HEADS.get(width) or hints.heads_of(width, "decoder_")
        method |= {
            "decoder_dim": width, "decoder_heads": heads,
            "decoder_depth": block_count(tensors, r"decoder\.blocks\.(\d+)\."),
        }  # fmt: skip
    head, left_out, absent = None, {}, {}
    if "fc_norm.weight" in tensors and "head.weight" in tensors:
        agreed("pool", "mean", hints.pool, where)
        head, absent = {"pool": "mean", "count": len(tensors["head.weight"]), "classes": []}, HEAD_NORM
    elif "head.weight" in tensors:
        left_out = {"head": "it reads the first token after the last norm: no head of ours does"}
        tensors = {name: x for name, x in tensors.items() if not name.startswith("head.")}
    if not decoder and "norm.weight" not in tensors:
        absent = HEAD_NORM
    return Found(
        "official VideoMAE", tensors, layouts.official(channels, tuple(cut), decoder), method,
        "pretraining" if decoder else "classifier" if head else "encoder", head,
        norm_pix=True if decoder else None,  # as in all of the authors' recipes
        mean=IMAGENET[0], std=IMAGENET[1], order="none" if learned else "flat", left_out=left_out, absent=absent,
    )  # fmt: skip


def hugging_face(tensors: Tensors, config: Mapping[str, Any], hints: Hints, where: str) -> Found:
    """VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification, by their config.json."""
    at = f"the config.json of {where}"
    defaults = {  # of VideoMAEConfig, for files that leave out what is default
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 16, "num_frames": 16, "tubelet_size": 2,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "qkv_bias": True, "use_mean_pooling": True,
        "decoder_hidden_size": 384, "decoder_num_hidden_layers": 4, "decoder_num_attention_heads": 6,
        "decoder_intermediate_size": 1536, "norm_pix_loss": True,
    }  # fmt: skip
    c = {key: config.get(key, default) for key, default in defaults.items()}
    c["qkv_bias"] = config.get("qv_bias", c["qkv_bias"])  # its name since transformers 5
    if activation(c["hidden_act"], at) != "gelu":
        raise UserError(f"{at}: hidden_act={c['hidden_act']!r}, and our VideoMAE has the exact GELU alone.")
    agreed("num_attention_heads", c["num_attention_heads"], hints.heads, at)
    agreed("image_size", pair(c["image_size"]), hints.image_size, at)
    prefix = "videomae." if any(name.startswith("videomae.") for name in tensors) else ""
    decoder, normed = "mask_token" in tensors, f"{prefix}layernorm.weight" in tensors
    if decoder and not normed:
        raise UserError(
            f"{where} was trained without the encoder's last norm (use_mean_pooling is true, transformers' default), "
            f"which VideoMAE has: its decoder would read something else here. Its encoder can be read: --as encoder."
        )
    ratio, dim = inner_ratio(c["intermediate_size"], c["hidden_size"]), c["hidden_size"]
    patch, stored = pair(c["patch_size"]), any(name.endswith(".q_bias") for name in tensors)
    method: dict[str, Any] = {
        "name": "videomae", "frames": c["num_frames"], "image_size": plain(pair(c["image_size"])),
        "tubelet": c["tubelet_size"], "patch": plain(patch), "channels": c["num_channels"], "dim": dim,
        "depth": c["num_hidden_layers"], "heads": c["num_attention_heads"], "mlp_ratio": ratio,
        "norm_eps": hints.norm_eps or c["layer_norm_eps"], "qkv_bias": "qv" if c["qkv_bias"] else False,
    }  # fmt: skip
    if decoder:
        if ratio != inner_ratio(c["decoder_intermediate_size"], c["decoder_hidden_size"]):
            raise UserError(
                f"{at}: the MLPs of encoder and decoder are other multiples of their widths, and ours has one ratio."
            )
        method |= {
            "decoder_dim": c["decoder_hidden_size"], "decoder_depth": c["decoder_num_hidden_layers"],
            "decoder_heads": c["decoder_num_attention_heads"],
        }  # fmt: skip
    head, left_out = None, {}
    if "classifier.weight" in tensors and "fc_norm.weight" in tensors:
        agreed("pool", "mean", hints.pool, at)
        count, labels = len(tensors["classifier.weight"]), config.get("id2label") or {}
        names = {int(i): str(label) for i, label in labels.items()}
        known = len(names) == count
        head = {"pool": "mean", "count": count, "classes": [names[i] for i in range(count)] if known else []}
    elif "classifier.weight" in tensors:
        left_out = {"classifier": "it reads the first token after the last norm: no head of ours does"}
        tensors = {name: x for name, x in tensors.items() if not name.startswith("classifier.")}
    cut = (c["tubelet_size"], *patch)
    said = config.get("preprocessor") or {}
    return Found(
        "Hugging Face", tensors, layouts.hugging_face(c["num_channels"], cut, prefix, stored), method,
        "pretraining" if decoder else "classifier" if head else "encoder", head,
        norm_pix=bool(c["norm_pix_loss"]) if decoder else None,
        mean=floats(said.get("image_mean")) or IMAGENET[0], std=floats(said.get("image_std")) or IMAGENET[1],
        stated="image_mean" in said, order="flat", left_out=left_out, absent={} if normed else HEAD_NORM,
    )  # fmt: skip
