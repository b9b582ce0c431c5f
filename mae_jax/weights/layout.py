"""Our weights in other libraries' layouts: tensors by their names, and the configs beside them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop import vit_layouts as layouts
from mae_jax.interop.names import Constant, Rules, export_weights
from mae_jax.interop.vit_layouts import Sizes
from mae_jax.weights import heads
from mae_jax.weights.store import ENCODER_PARTS, Weights

# Methods whose encoder is the plain ViT of nets/vit.py with MAE's positions; of the others, why it is another network.
PLAIN = ("mae", "lut", "maskalign")
OTHERS = {
    "cae": "its blocks have layer scale, biases of queries and values alone, and positions whose rows come first",
    "croma": "its blocks bias attention by distance (ALiBi) and have no positions, for radar and optical channels",
    "spark": "it is a convolutional network",
    "hiendmae": "it encodes volumes, on three axes",
    "graphmae": "it encodes graphs",
    "videomae": "it encodes videos",
    "videomaev2": "it encodes videos",
    "pointmae": "it encodes point clouds",
    "pointcmae": "it encodes point clouds",
    "birdmae": "it encodes spectrograms",
}
HF_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
TIMM_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}


@dataclasses.dataclass(frozen=True)
class Written:
    """What a file or folder of another library holds.

    Attributes:
      tensors: by their names, in float32.
      files: {name: JSON content} of the configs beside them.
      left_out: what of the weights has no place there.
      use: Python code that loads it.
    """

    tensors: dict[str, np.ndarray]
    files: dict[str, dict[str, Any]]
    left_out: dict[str, str]
    use: str


def to_official(weights: Weights) -> Written:
    """The state dict of facebookresearch/mae: pretraining, encoder or classifier."""
    s, method = _sizes(weights, "mae")
    if not s.class_token:
        raise UserError("facebookresearch/mae's networks have a class token, and these weights have none.")
    _check_gelu(method, "mae")
    if weights.head is not None and weights.info["head"]["pool"] == "normed_mean":
        raise UserError(
            "this head reads the mean of the tokens after the last norm, and those of facebookresearch/mae the class "
            "token, or a mean before it: take --to timm, or --as encoder."
        )
    tensors = _tensors(layouts.official(s), s, weights, "pos_embed", "decoder_pos_embed")
    use = 'model.load_state_dict(safetensors.torch.load_file("FILE"))'
    return Written(tensors, {}, _left_out(weights, decoder=True), use)


def to_timm(weights: Weights) -> Written:
    """A folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`: the encoder, and its head."""
    s, method = _sizes(weights, "timm")
    if method["norm_eps"] != 1e-6:
        raise UserError(
            f"these weights have norm_eps={method['norm_eps']:g}, and timm's ViTs always 1e-6: outputs would differ. "
            f"If that is what you want, convert the original again with --norm-eps 1e-6."
        )
    s = dataclasses.replace(s, decoder_dim=None)
    left_out = _left_out(weights, decoder=False)
    tensors = _tensors(layouts.official(s), s, _without_decoder(weights), "pos_embed")
    head, classes = weights.info.get("head") or {}, classes_of(weights)
    pool = head["pool"] if classes else "class" if s.class_token else "normed_mean"
    args = {
        "img_size": list(pair(method["image_size"])), "patch_size": list(s.patch), "in_chans": s.channels,
        "embed_dim": s.dim, "depth": method["depth"], "num_heads": method["heads"],
        "mlp_ratio": method["mlp_ratio"], "qkv_bias": "blocks.0.attn.qkv.bias" in tensors,
        "class_token": s.class_token, "fc_norm": pool == "mean",
        "act_layer": TIMM_ACTIVATIONS[method.get("activation", "gelu")],
    }  # fmt: skip
    colours = weights.config["augment"]
    token = "token" if pool == "class" else "avg"
    config = {
        "architecture": "vit_base_patch16_224", "num_classes": classes, "num_features": s.dim,
        "global_pool": token, "model_args": args | {"global_pool": token},
        "pretrained_cfg": {
            "tag": "mae_jax", "custom_load": False, "input_size": [s.channels, *pair(method["image_size"])],
            "fixed_input_size": True, "interpolation": "bicubic", "crop_pct": 0.875, "classifier": "head",
            "mean": list(colours["mean"]), "std": list(colours["std"]), "first_conv": "patch_embed.proj",
            "num_classes": classes, "pool_size": None,
        },
    }  # fmt: skip
    if classes and head.get("classes"):
        config["label_names"] = list(head["classes"])
    use = 'timm.create_model("local-dir:FOLDER", pretrained=True)'
    return Written(tensors, {"config.json": config}, left_out, use)


def to_hugging_face(weights: Weights) -> Written:
    """A folder for `from_pretrained`: ViTMAEForPreTraining, ViTForImageClassification, or ViTModel without a pooler; of
    videos VideoMAE's three."""
    from mae_jax.weights import video_layout

    if weights.config["method"]["name"] in video_layout.VIDEO:
        return video_layout.to_hugging_face(weights)
    s, method = _sizes(weights, "hf")
    if not s.class_token:
        raise UserError("Hugging Face's ViTs have a class token, and these weights have none: take --to timm.")
    if weights.head is not None and weights.info["head"]["pool"] != "class":
        raise UserError(
            "Hugging Face's ViTForImageClassification reads the class token after the last norm, and this head the "
            "mean of the patch tokens: its logits cannot be had there. Take --to timm, or --as encoder."
        )
    size = pair(method["image_size"])
    kind = weights.kind
    if kind == "pretraining" and (len(set(size)) > 1 or len(set(s.patch)) > 1):
        raise UserError("Hugging Face's ViTMAE knows square images and patches only; take --as encoder for a ViTModel.")
    if kind == "pretraining" and weights.info.get("norm_pix") is None:
        raise UserError("norm_pix_loss must be said in Hugging Face's config.json, and the file does not say: "
                        "--norm-pix yes or no.")  # fmt: skip
    model, prefix = {
        "pretraining": ("ViTMAEForPreTraining", "vit."), "classifier": ("ViTForImageClassification", "vit."),
        "encoder": ("ViTModel", ""),
    }[kind]  # fmt: skip
    names = layouts.HuggingFaceNames(prefix)
    rules = layouts.hugging_face(s, names)
    tensors = _tensors(rules, s, weights, f"{prefix}embeddings.position_embeddings", "decoder.decoder_pos_embed")
    square = lambda pair: pair[0] if len(set(pair)) == 1 else list(pair)
    ratio = method["mlp_ratio"]
    config = {
        "architectures": [model], "model_type": "vit_mae" if kind == "pretraining" else "vit", "hidden_size": s.dim,
        "num_hidden_layers": method["depth"], "num_attention_heads": method["heads"],
        "intermediate_size": int(s.dim * ratio), "hidden_act": HF_ACTIVATIONS[method.get("activation", "gelu")],
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02,
        "layer_norm_eps": method["norm_eps"], "image_size": square(size), "patch_size": square(s.patch),
        "num_channels": s.channels, "torch_dtype": "float32",
        "qkv_bias": any(".query.bias" in name for name in tensors),
    }  # fmt: skip
    if kind == "pretraining":
        config |= {
            "decoder_hidden_size": s.decoder_dim, "decoder_num_hidden_layers": method["decoder_depth"],
            "decoder_num_attention_heads": method["decoder_heads"],
            "decoder_intermediate_size": int(method["decoder_dim"] * ratio), "mask_ratio": method["mask_ratio"],
            "norm_pix_loss": bool(weights.info["norm_pix"]),
        }  # fmt: skip
    elif kind == "classifier":
        labels = weights.info["head"].get("classes") or [f"LABEL_{i}" for i in range(classes_of(weights))]
        config |= {"id2label": {str(i): name for i, name in enumerate(labels)},
                   "label2id": {name: i for i, name in enumerate(labels)}}  # fmt: skip
    colours = weights.config["augment"]
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
        "rescale_factor": 1 / 255, "resample": 3, "size": {"height": size[0], "width": size[1]},
        "image_mean": list(colours["mean"]), "image_std": list(colours["std"]),
    }  # fmt: skip
    pooler = ", add_pooling_layer=False" if kind == "encoder" else ""
    return Written(
        tensors, {"config.json": config, "preprocessor_config.json": processor}, _left_out(weights, decoder=True),
        f'transformers.{model}.from_pretrained("FOLDER"{pooler})',
    )  # fmt: skip


# Shared ---------------------------------------------------------------------------------------------------------------


def encoder_alone(weights: Weights) -> Weights:
    """Without decoder, head, averages and whatever else pretraining needed."""
    if "encoder" not in weights.params:
        raise UserError(f"the method '{weights.config['method']['name']}' has no part that is its encoder alone.")
    info = weights.info | {"kind": "encoder", "norm_pix": None, "head": None}
    params, stats = ({part: x[part] for part in ENCODER_PARTS if part in x} for x in (weights.params, weights.stats))
    extra = {part: table for part, table in weights.extra.items() if part == "encoder"}
    return dataclasses.replace(weights, params=params, stats=stats, ema={}, head=None, info=info, extra=extra)


def averaged(weights: Weights) -> Weights:
    """With the moving average of the parameters in their place."""
    if "average" not in weights.ema:
        raise UserError("these weights have no average: it is kept by runs with optim.average > 0.")
    ema = {part: x for part, x in weights.ema.items() if part != "average"}
    return dataclasses.replace(weights, params=weights.ema["average"], ema=ema)


def _without_decoder(weights: Weights) -> Weights:
    return dataclasses.replace(weights, params={"encoder": weights.params["encoder"]})


def classes_of(weights: Weights) -> int:
    """How many classes the head knows; 0: there is no head."""
    return 0 if weights.head is None else heads.count(weights.head)


def _left_out(weights: Weights, decoder: bool) -> dict[str, str]:
    parts = set(weights.params) - {"encoder"} - ({"decoder"} if decoder else set())
    out = dict.fromkeys(sorted(parts), "the layout has no place for it")
    return out | ({"teacher": "a moving average, which only this method's loss reads"} if weights.ema.get("teacher")
                  else {})  # fmt: skip


def _sizes(weights: Weights, to: str) -> tuple[Sizes, dict[str, Any]]:
    """What name maps need, and the method's fields; refuses what is no plain ViT."""
    method = weights.config["method"]
    name = method["name"]
    if name not in PLAIN:
        why = OTHERS.get(name, "its encoder is another network")
        raise UserError(
            f"--to {to} writes plain ViTs, and the encoder of '{name}' is none: {why}. --to native writes it for "
            f"mae_jax, and --to safetensors with a model card."
        )
    if to in ("hf", "mae") and name != "mae" and weights.kind == "pretraining":
        raise UserError(f"--to {to} knows MAE's decoder alone, and '{name}' has parts of its own: take --as encoder.")
    size, patch = pair(method["image_size"]), pair(method["patch"])
    grid = (size[0] // patch[0], size[1] // patch[1])
    decoder = method["decoder_dim"] if "decoder" in weights.params else None
    learned = method.get("positions", "sincos") == "learned"
    return Sizes(
        method["channels"], patch, grid, method["dim"], decoder, learned, method.get("class_token", True)
    ), method


def _tensors(rules: Rules, s: Sizes, weights: Weights, encoder: str, decoder: str = "") -> dict[str, np.ndarray]:
    """Their names; `encoder` and `decoder` are their position tables' names."""
    flat = tree.flatten({"params": weights.params, "head": weights.head or {}})
    if any(path.endswith("qkv/bias") for path in weights.info.get("absent") or {}):
        flat = {p: x for p, x in flat.items() if not p.endswith("/attn/qkv/bias")}  # zeros that we put there
    head_stats = [p for p in flat if p.startswith("head/stats/")]
    if head_stats:
        raise UserError(f"the head has statistics ({', '.join(head_stats)}), for which the layout has no place.")
    if weights.head is not None and weights.info["head"]["pool"] == "mean":
        flat = {p: x for p, x in flat.items() if not p.startswith("params/encoder/norm/")}  # replaced by fc_norm
    tensors = export_weights(rules, tree.unflatten(flat), constants=True)
    fixed = {rule.theirs for rule in rules if isinstance(rule, Constant)}
    for name, part in ((encoder, "encoder"), (decoder, "decoder")):
        if name in fixed and part in weights.extra:
            tensors[name] = np.asarray(weights.extra[part])
    return {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}


def _check_gelu(method: Mapping[str, Any], to: str) -> None:
    if method.get("activation", "gelu") != "gelu":
        raise UserError(f"these weights have the activation {method['activation']}, and the networks of --to {to} the "
                        f"exact GELU: take --to timm or hf.")  # fmt: skip


def pair(value: Any) -> tuple[int, int]:
    rows, columns = (value, value) if isinstance(value, int) else value
    return rows, columns
