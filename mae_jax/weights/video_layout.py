"""Our video weights as a folder for transformers' `from_pretrained`."""

from typing import Any

import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.interop.names import export_weights
from mae_jax.interop.video_layouts import hugging_face
from mae_jax.weights.layout import Written, classes_of, pair
from mae_jax.weights.store import Weights

VIDEO = ("videomae", "videomaev2")  # methods whose networks are those of VideoMAE


def to_hugging_face(weights: Weights) -> Written:
    """VideoMAEForPreTraining, VideoMAEForVideoClassification or VideoMAEModel."""
    method, kind = weights.config["method"], weights.kind
    size, patch = pair(method["image_size"]), pair(method["patch"])
    _check(weights, size, patch)
    model, prefix = {
        "pretraining": ("VideoMAEForPreTraining", "videomae."),
        "classifier": ("VideoMAEForVideoClassification", "videomae."), "encoder": ("VideoMAEModel", ""),
    }[kind]  # fmt: skip
    flat = tree.flatten({"params": weights.params, "head": weights.head or {}})
    unnormed = kind == "classifier" or "encoder/norm/" in (weights.info.get("absent") or {})
    if unnormed:  # the classifier's fc_norm replaces it, or we put it there
        flat = {p: x for p, x in flat.items() if not p.startswith("params/encoder/norm/")}
    rules = hugging_face(method["channels"], (method["tubelet"], *patch), prefix)
    tensors = export_weights(rules, tree.unflatten(flat))
    ratio = method["mlp_ratio"]
    config: dict[str, Any] = {
        "architectures": [model], "model_type": "videomae", "hidden_size": method["dim"],
        "num_hidden_layers": method["depth"], "num_attention_heads": method["heads"],
        "intermediate_size": int(method["dim"] * ratio), "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02, "layer_norm_eps": method["norm_eps"],
        "image_size": size[0], "patch_size": patch[0], "num_channels": method["channels"],
        "num_frames": method["frames"], "tubelet_size": method["tubelet"], "torch_dtype": "float32",
        # transformers 5 calls it qv_bias, those before qkv_bias
        "qkv_bias": bool(method["qkv_bias"]), "qv_bias": bool(method["qkv_bias"]), "use_mean_pooling": unnormed,
    }  # fmt: skip
    if kind == "pretraining":
        config |= {
            "decoder_hidden_size": method["decoder_dim"], "decoder_num_hidden_layers": method["decoder_depth"],
            "decoder_num_attention_heads": method["decoder_heads"],
            "decoder_intermediate_size": int(method["decoder_dim"] * ratio), "norm_pix_loss": method["norm_pix"],
        }  # fmt: skip
    elif kind == "classifier":
        labels = weights.info["head"].get("classes") or [f"LABEL_{i}" for i in range(classes_of(weights))]
        config |= {"id2label": {str(i): name for i, name in enumerate(labels)},
                   "label2id": {name: i for i, name in enumerate(labels)}}  # fmt: skip
    augment = weights.config["augment"]
    processor = {
        "image_processor_type": "VideoMAEImageProcessor", "do_resize": True, "do_center_crop": True, "do_rescale": True,
        "do_normalize": True, "rescale_factor": 1 / 255, "resample": 2, "size": {"shortest_edge": size[0]},
        "crop_size": {"height": size[0], "width": size[1]}, "image_mean": list(augment["mean"]),
        "image_std": list(augment["std"]),
    }  # fmt: skip
    masked = kind == "pretraining" and method.get("decoder_ratio", 0.0) > 0
    left_out = {"decoder masking": "VideoMAEForPreTraining asks its decoder for all that is hidden"} if masked else {}
    return Written(
        {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()},
        {"config.json": config, "preprocessor_config.json": processor}, left_out,
        f'transformers.{model}.from_pretrained("FOLDER")',
    )  # fmt: skip


def _check(weights: Weights, size: tuple[int, int], patch: tuple[int, int]) -> None:
    """Raise UserError for what transformers' VideoMAE has not."""
    method = weights.config["method"]
    lacks = {
        "layer scale (method.layer_scale)": bool(method.get("layer_scale")),
        "cosine attention (method.cosine)": bool(method.get("cosine")),
        "another scale of the logits (method.qk_scale)": method.get("qk_scale") is not None,
        "learned positions (method.positions)": method.get("positions") == "learned",
        "biases of keys (method.qkv_bias=True)": method.get("qkv_bias") is True,
        "pictures or patches that are not square": len(set(size)) > 1 or len(set(patch)) > 1,
    }
    found = [what for what, there in lacks.items() if there]
    if found:
        raise UserError(f"transformers' VideoMAE has no {', no '.join(found)}: take --to native or safetensors.")
    if weights.head is not None and weights.info["head"]["pool"] != "mean":
        raise UserError(
            "transformers' VideoMAEForVideoClassification reads the mean of the tokens before the last norm, through a "
            "norm of its own, and this head reads something else: take --as encoder, or --to native."
        )
