"""Published Transformers of point clouds as our PointMAE and PointCMAE: pretraining, and fine-tuned classifiers."""

import re
from typing import Any

from mae_jax.core.errors import UserError
from mae_jax.interop import blocks as parts
from mae_jax.interop import pointcmae, pointmae
from mae_jax.interop.clip_vision_teacher import inner_ratio
from mae_jax.interop.names import Tensors
from mae_jax.weights.families import Found, block_count, placed, required
from mae_jax.weights.hints import Hints

FIRST = "encoder.first_conv.0.weight"  # of the mini PointNet
HEAD = "cls_head_finetune"
GROUP_POINTS = 32
# (points, groups) of the published models: of pretraining and ModelNet40, and by the count of classes.
CLOUDS, CLOUDS_OF = (1024, 64), {15: (2048, 128)}  # 15: ScanObjectNN
ENCODER = re.compile(r"(encoder|pos_embed|blocks|norm|cls_token|cls_pos)(\.|$)")  # of a fine-tuned model


def is_official(tensors: Tensors) -> bool:
    """Whether these are tensors of Point-MAE's code or Point-CMAE's."""
    return FIRST in tensors or f"MAE_encoder.{FIRST}" in tensors


def official(tensors: Tensors, hints: Hints, where: str) -> Found:
    """The state dict of Pang-Yatian/Point-MAE's or Amazingren/Point-CMAE's pretraining or classifier."""
    said = {"--image-size": hints.image_size, "--mean": hints.mean, "--pool": hints.pool}
    if wrong := [flag for flag, value in said.items() if value is not None]:
        raise UserError(f"{where} holds an encoder of point clouds, of which {', '.join(wrong)} says nothing.")
    whole = f"MAE_encoder.{FIRST}" in tensors
    return _pretraining(tensors, hints, where) if whole else _classifier(tensors, hints, where)


def _pretraining(tensors: Tensors, hints: Hints, where: str) -> Found:
    double = "MAE_encoder.cls_token1" in tensors
    size = required(tensors, "increase_dim.0.weight", where).shape[0] // 3
    if hints.encoder_only:
        tensors = {name: x for name, x in tensors.items() if name.startswith("MAE_encoder.")}
    method = {"name": "pointcmae" if double else "pointmae"} | _sizes(tensors, "MAE_encoder.", hints, where)
    method["group_points"] = size
    if not hints.encoder_only:
        method["decoder_depth"] = block_count(tensors, r"MAE_decoder\.blocks\.(\d+)\.")
    rules = pointcmae.pretraining_rules() if double else pointmae.pretraining_rules()
    return Found(
        "official Point-CMAE" if double else "official Point-MAE", tensors, placed(rules), method,
        "encoder" if hints.encoder_only else "pretraining", order="centres", augment={},
        assumed=_assumed(method, "points", "groups"),
    )  # fmt: skip


def _classifier(tensors: Tensors, hints: Hints, where: str) -> Found:
    """Also a model for parts, of which the encoder can be read."""
    layers = [name for name in tensors if re.fullmatch(rf"{HEAD}\.\d+\.weight", name) and tensors[name].ndim == 2]
    layers.sort(key=lambda name: int(name.split(".")[1]))
    others = [name for name in tensors if not ENCODER.match(name) and not name.startswith(f"{HEAD}.")]
    if hints.encoder_only:
        tensors, layers = {name: x for name, x in tensors.items() if ENCODER.match(name)}, []
    elif others or not layers:
        what = f"{', '.join(others[:4])}{' ...' if others[4:] else ''}" if others else f"no {HEAD}"
        raise UserError(
            f"{where} has an encoder of Point-MAE's with {what}: read are classifiers ({HEAD}) and pretraining "
            f"(MAE_encoder.*), and of a model that segments parts the encoder alone, --as encoder."
        )
    if layers and [name.split(".")[1] for name in layers] not in (["0"], ["0", "4", "8"]):
        raise UserError(
            f"{where} has a head of {', '.join(layers)}: read are one linear layer ({HEAD}.0) and three ({HEAD}.0, .4, "
            f".8); its encoder can be had, --as encoder."
        )
    rules, head, clouds = pointmae.classifier_rules(), None, CLOUDS
    if layers:
        widths = [len(tensors[name]) for name in layers]
        clouds = CLOUDS_OF.get(widths[-1], CLOUDS)
        head = {"pool": "class_max", "count": widths[-1], "classes": [], "hidden": widths[:-1]}
        if len(layers) == 1:  # Point-CMAE's protocol "linear"
            own = len(pointmae.head_rules(HEAD))
            rules = [*rules[:-own], *parts.linear(f"{HEAD}.0", "head")]
    method = {"name": "pointmae"} | _sizes(tensors, "", hints, where) | {
        "points": clouds[0], "groups": clouds[1], "class_token": "cls_token" in tensors,
    }  # fmt: skip
    return Found(
        "official Point-MAE", tensors, placed(rules), method, "classifier" if head else "encoder", head,
        order="centres", augment={}, assumed=_assumed(method, "points", "groups", "group_points"),
    )  # fmt: skip


def _sizes(tensors: Tensors, prefix: str, hints: Hints, where: str) -> dict[str, Any]:
    """Fields that the encoder's tensors tell, and the published clouds."""
    dim = len(required(tensors, f"{prefix}norm.weight", where))
    ratio = inner_ratio(required(tensors, f"{prefix}blocks.blocks.0.mlp.fc1.weight", where).shape[0], dim)
    heads = hints.heads_of(dim)
    return {
        "points": CLOUDS[0], "groups": CLOUDS[1], "group_points": GROUP_POINTS, "dim": dim,
        "depth": block_count(tensors, rf"{re.escape(prefix)}blocks\.blocks\.(\d+)\."), "heads": heads,
        "decoder_heads": hints.decoder_heads or heads, "mlp_ratio": ratio, "norm_eps": hints.norm_eps or 1e-5,
    }  # fmt: skip


def _assumed(method: dict[str, Any], *keys: str) -> dict[str, str]:
    """No tensor depends on how many points and groups there are."""
    what = ", ".join(f"method.{key}={method[key]}" for key in keys)
    return {what: "as published: the file does not say; say otherwise by --config.method.groups=128 and the like"}
