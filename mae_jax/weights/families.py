"""Published plain ViTs as our MAE: what a file's names and shapes say, and what a config beside it says."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.interop import vit_layouts as layouts
from mae_jax.interop.clip_vision_teacher import inner_ratio
from mae_jax.interop.names import Rule, Rules, Tensors
from mae_jax.interop.vit_layouts import Sizes
from mae_jax.weights.hints import Hints, agreed

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # big_vision's value_range(-1, 1)

ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Found:
    """A published file, understood.

    Attributes:
      family: "official or timm", "timm", "Hugging Face", "big_vision".
      tensors: by the names that `rules` know.
      method: our method's name and fields.
      kind: of the weights (weights/store.py).
      head: facts of a classifier: {"pool", "count": how many classes, "classes": their names, [] where unknown,
        "hidden": widths of the layers before the last, where there are any}.
      norm_pix: None where the file does not say.
      mean, std: of the input; `stated` is whether the file says so.
      order: of the position table.
      left_out: {part of the file: why ours has no place for it}.
      absent: {parameters that ours has and the file has not, as a regular expression: why}; they are filled so that
        the function is the same.
      tables: {name of a fixed table: "encoder" or "decoder"}, whose last bits are kept.
      augment: the config's section where the input has other colours than mean and std.
      assumed: {fields that the file does not say: what they are taken to be, and why}.
    """

    family: str
    tensors: Tensors
    rules: Rules
    method: dict[str, Any]
    kind: str
    head: dict[str, Any] | None = None
    norm_pix: bool | None = None
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    stated: bool = False
    order: layouts.Order = "none"
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    augment: Mapping[str, Any] | None = None
    assumed: Mapping[str, str] = dataclasses.field(default_factory=dict)


def understand(tensors: Tensors, config: Mapping[str, Any], hints: Hints, where: str) -> Found:
    """What `tensors` are, with the config.json beside them ({}: there is none)."""
    from mae_jax.weights import audio_family, mmpretrain_family, point_families, video_families

    if config.get("model_type") == "videomae":
        return video_families.hugging_face(tensors, config, hints, where)
    if video_families.is_official(tensors):
        return video_families.official(tensors, hints, where)
    if mmpretrain_family.is_mmpretrain(tensors):
        return mmpretrain_family.official(tensors, hints, where)
    if point_families.is_official(tensors):
        return point_families.official(tensors, hints, where)
    if audio_family.is_official(tensors, config, hints, where):
        return audio_family.official(tensors, hints, where)
    if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in tensors):
        return hugging_face(tensors, config, hints, where)
    if "patch_embed.proj.weight" in tensors:
        return official(tensors, config, hints, where)
    if any(name.removeprefix("params/") == "embedding/kernel" for name in tensors):
        return big_vision(tensors, hints, where)
    some = ", ".join(list(tensors)[:4])
    raise UserError(
        f"{where} holds {len(tensors)} tensors ({some}, ...), and no family of ViTs that is known here names them so. "
        f"Known are facebookresearch/mae, timm's plain ViT (patch_embed.proj.weight), Hugging Face's ViTMAE and ViT "
        f"(embeddings.patch_embeddings.projection.weight), big_vision (embedding/kernel), mmpretrain's MAE "
        f"(backbone.patch_embed.projection.weight), VideoMAE in both its own and Hugging Face's names, Point-MAE and "
        f"Point-CMAE (MAE_encoder.*), Audio-MAE and Bird-MAE (patches of one channel)."
    )


# facebookresearch/mae and timm ----------------------------------------------------------------------------------------


def official(tensors: Tensors, config: Mapping[str, Any], hints: Hints, where: str) -> Found:
    """A state dict of the official code or of timm's plain ViT; `config` is timm's config.json."""
    _no_others(tensors, where)
    args, cfg = config.get("model_args") or {}, config.get("pretrained_cfg") or {}
    kernel = required(tensors, "patch_embed.proj.weight", where)
    dim, channels, *patch = kernel.shape
    table, decoder = required(tensors, "pos_embed", where), "mask_token" in tensors or "decoder_pred.weight" in tensors
    class_token = "cls_token" in tensors
    grid, class_row = _grid(table.shape[1], class_token, tuple(patch), args.get("img_size"), hints, where)
    order = layouts.order_of(table, grid, int(class_token and class_row))
    classifier = "head.weight" in tensors and "attn_pool.latent" not in tensors
    decoder_dim = required(tensors, "decoder_embed.weight", where).shape[0] if decoder else None
    s = Sizes(channels, (patch[0], patch[1]), grid, dim, decoder_dim, order != "column", class_token, class_row)
    agreed("num_heads", args.get("num_heads"), hints.heads, f"the config.json of {where}")
    method = _method(s, hints) | {
        "depth": block_count(tensors, r"blocks\.(\d+)\."),
        "heads": args.get("num_heads") or hints.heads_of(dim),
        "mlp_ratio": inner_ratio(required(tensors, "blocks.0.mlp.fc1.weight", where).shape[0], dim),
        "norm_eps": hints.norm_eps or 1e-6,
        "activation": activation(args.get("act_layer") or "gelu", where),
    }
    if decoder_dim is not None:
        method |= {
            "decoder_dim": decoder_dim, "decoder_depth": block_count(tensors, r"decoder_blocks\.(\d+)\."),
            "decoder_heads": hints.heads_of(decoder_dim, "decoder_"),
        }  # fmt: skip
    absent = _absent_biases(tensors, "blocks.0.attn.qkv.bias")
    if "norm.weight" not in tensors and ("fc_norm.weight" in tensors or hints.encoder_only):
        absent |= {"encoder/norm/": "the head norms the pooled tokens instead: ours scales by 1 and shifts by 0"}
    left_out = {}
    if any(name.startswith("attn_pool.") for name in tensors):
        left_out = {"attn_pool, head": "attention pooling: no head of ours reads features that way"}
        tensors = {name: x for name, x in tensors.items() if not name.startswith(("head.", "fc_norm."))}
    head = _official_head(tensors, config, hints, class_token) if classifier else None
    return Found(
        "timm" if config else "official or timm", tensors, layouts.official(s), method,
        "classifier" if classifier else "pretraining" if decoder else "encoder", head,
        mean=floats(cfg.get("mean")) or IMAGENET[0], std=floats(cfg.get("std")) or IMAGENET[1],
        stated="mean" in cfg, order=order, left_out=left_out, absent=absent,
        tables={"pos_embed": "encoder", "decoder_pos_embed": "decoder"},
    )  # fmt: skip


def _official_head(tensors: Tensors, config: Mapping[str, Any], hints: Hints, class_token: bool) -> dict[str, Any]:
    """What the head reads: names tell mean pooling with fc_norm apart; the rest is timm's config, or a hint."""
    said = {"avg": "normed_mean", "token": "class"}.get(config.get("global_pool", ""))
    if "fc_norm.weight" in tensors:
        said = "mean"
    agreed("pool", said, hints.pool, "this file")
    pool = said or hints.pool or ("class" if class_token else "normed_mean")
    assumed = {} if said or hints.pool or not class_token else {"assumed": True}
    names = (config.get("pretrained_cfg") or {}).get("label_names") or config.get("label_names")
    return {"pool": pool, "count": len(tensors["head.weight"]), "classes": list(names or [])} | assumed


FOREIGN = {
    r"ls1\.|ls2\.|\.gamma_": "layer scale (DeiT III, BEiT, CAE)", "reg_token": "register tokens",
    "dist_token|head_dist": "a distillation token", r"norm_pre\.": "a norm before the blocks (CLIP)",
    r"attn\.[qk]_norm\.": "normed queries and keys", r"relative_position|rel_pos": "relative positions (BEiT, Swin)",
    r"mlp\.w12|fc1_g": "gated MLPs",
}  # fmt: skip


def _no_others(tensors: Tensors, where: str) -> None:
    """Name what a relative of the plain ViT has besides, before shapes are blamed."""
    for pattern, what in FOREIGN.items():
        names = [name for name in tensors if re.search(pattern, name)]
        if names:
            raise UserError(
                f"{where} has {what}, which our MAE has not: {', '.join(names[:4])}{' ...' if names[4:] else ''} "
                f"({len(names)} tensors). Only plain ViTs are read."
            )


# Hugging Face ---------------------------------------------------------------------------------------------------------


def hugging_face(tensors: Tensors, config: Mapping[str, Any], hints: Hints, where: str) -> Found:
    """ViTMAEModel, ViTMAEForPreTraining, ViTModel, ViTForImageClassification; the config.json is needed."""
    if not config:
        raise UserError(
            f"{where} has Hugging Face's names, but there is no config.json beside it, which says how many heads and "
            f"which norms there are: give the folder as it is on the hub (config.json and model.safetensors)."
        )
    kind = config.get("model_type")
    if kind not in ("vit", "vit_mae"):
        raise UserError(f"{where} is a Hugging Face model of type {kind!r}; read are 'vit_mae' and 'vit'.")
    names = layouts.HuggingFaceNames.found(tensors)
    vit, at = names.prefix, f"the config.json of {where}"
    defaults = {  # of ViTConfig and ViTMAEConfig, for files that leave out what is default
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "decoder_hidden_size": 512, "decoder_num_hidden_layers": 8, "decoder_num_attention_heads": 16,
        "decoder_intermediate_size": 2048, "mask_ratio": 0.75, "norm_pix_loss": False,
    }  # fmt: skip
    c = {key: config.get(key, default) for key, default in defaults.items()}
    patch, size = pair(c["patch_size"]), pair(c["image_size"])
    agreed("image_size", size, hints.image_size, at)
    agreed("num_attention_heads", c["num_attention_heads"], hints.heads, at)
    grid = size[0] // patch[0], size[1] // patch[1]
    table = required(tensors, f"{vit}embeddings.position_embeddings", where)
    if table.shape[1] != 1 + math.prod(grid):
        raise UserError(f"{where} has {table.shape[1]} positions, but {at} says 1 + {grid[0]} x {grid[1]}.")
    decoder = any(name.startswith("decoder.") for name in tensors)
    order = layouts.order_of(table, grid, 1)
    s = Sizes(c["num_channels"], patch, grid, c["hidden_size"], c["decoder_hidden_size"] if decoder else None,
              order != "column")  # fmt: skip
    method = _method(s, hints) | {
        "depth": c["num_hidden_layers"], "heads": c["num_attention_heads"],
        "mlp_ratio": inner_ratio(c["intermediate_size"], s.dim), "norm_eps": hints.norm_eps or c["layer_norm_eps"],
        "activation": activation(c["hidden_act"], at),
    }  # fmt: skip
    if decoder:
        ratio = inner_ratio(c["decoder_intermediate_size"], c["decoder_hidden_size"])
        if ratio != method["mlp_ratio"]:
            raise UserError(f"{at}: the decoder's MLP is {ratio:g} times its width, the encoder's "
                            f"{method['mlp_ratio']:g} times; ours has one ratio for both.")  # fmt: skip
        method |= {
            "decoder_dim": c["decoder_hidden_size"], "decoder_depth": c["decoder_num_hidden_layers"],
            "decoder_heads": c["decoder_num_attention_heads"], "mask_ratio": float(c["mask_ratio"]),
        }  # fmt: skip
    head, pooler = None, any(name.startswith(f"{vit}pooler.") for name in tensors)
    if "classifier.weight" in tensors:
        agreed("pool", "class", hints.pool, "Hugging Face's ViT")
        count = len(tensors["classifier.weight"])
        labels = {int(i): str(label) for i, label in (config.get("id2label") or {}).items()}
        head = {"pool": "class", "count": count, "classes": [labels[i] for i in range(count)] if labels else []}
    query = f"{vit}{names.layers.format(i=0)}.attention." + ("attention.query" if names.published else "q_proj")
    colours = config.get("preprocessor") or {}
    return Found(
        "Hugging Face", tensors, layouts.hugging_face(s, names), method,
        "pretraining" if decoder else "classifier" if head else "encoder", head,
        norm_pix=bool(c["norm_pix_loss"]) if decoder else None,
        mean=floats(colours.get("image_mean")) or (IMAGENET if kind == "vit_mae" else HALF)[0],
        std=floats(colours.get("image_std")) or (IMAGENET if kind == "vit_mae" else HALF)[1],
        stated="image_mean" in colours, order=order,
        left_out={"pooler": "a dense layer and tanh on the class token, which nothing of ours reads"} if pooler else {},
        absent=_absent_biases(tensors, f"{query}.bias"),
        tables={f"{vit}embeddings.position_embeddings": "encoder", "decoder.decoder_pos_embed": "decoder"},
    )  # fmt: skip


# big_vision -----------------------------------------------------------------------------------------------------------


def big_vision(tensors: Tensors, hints: Hints, where: str) -> Found:
    """big_vision's ViT (learned or computed positions; per layer or scanned), and the first release's."""
    others = [name for name in tensors if not name.startswith("params/")]
    left_out = {}
    if len(others) < len(tensors):
        left_out = {", ".join(sorted({name.split("/")[0] for name in others})): "not the model's"} if others else {}
    tensors = layouts.tidy_big_vision(tensors)
    first = any("/MlpBlock_3/" in name for name in tensors)
    attention = f"Transformer/encoderblock_0/MultiHeadDotProductAttention_{int(first)}"
    *patch, channels, dim = required(tensors, "embedding/kernel", where).shape
    heads = required(tensors, f"{attention}/query/kernel", where).shape[1]
    agreed("heads", heads, hints.heads, where)
    class_token = "cls" in tensors
    if "pos_embedding" in tensors:
        table = tensors["pos_embedding"]
        grid, class_row = _grid(table.shape[1], class_token, tuple(patch), None, hints, where)
        order = layouts.order_of(table, grid, int(class_token and class_row))
    else:
        if hints.image_size is None:
            raise UserError(
                f"{where} has no position table: big_vision computes it (posemb='sincos2d') for the images that come. "
                f"Say for which size, for example --image-size 224."
            )
        grid = hints.image_size[0] // patch[0], hints.image_size[1] // patch[1]
        tensors |= {"pos_embedding": layouts.moco_sincos(dim, grid)[None]}
        class_row, order = False, "moco"
    s = Sizes(channels, (patch[0], patch[1]), grid, dim, None, True, class_token, class_row)
    rules, out = layouts.big_vision_head(tensors)
    head = None
    if "head/kernel" in tensors and not out:
        said = "class" if class_token else "normed_mean"
        agreed("pool", said, hints.pool, where)
        head = {"pool": said, "count": tensors["head/kernel"].shape[1], "classes": []}
    method = _method(s, hints) | {
        "depth": block_count(tensors, r"Transformer/encoderblock_(\d+)/"), "heads": heads,
        "mlp_ratio": inner_ratio(
            required(tensors, f"Transformer/encoderblock_0/MlpBlock_{3 * first}/Dense_0/bias", where).shape[0], dim
        ),
        "norm_eps": hints.norm_eps or 1e-6, "activation": "gelu_tanh",
    }  # fmt: skip
    return Found(
        "big_vision", tensors, [*layouts.big_vision(s, heads, first), *rules], method,
        "classifier" if head else "encoder", head, mean=HALF[0], std=HALF[1], stated=True, order=order,
        left_out=left_out | out,
    )  # fmt: skip


# Shared ---------------------------------------------------------------------------------------------------------------


def _method(s: Sizes, hints: Hints) -> dict[str, Any]:
    """The fields that follow from the sizes alone."""
    size = tuple(g * p for g, p in zip(s.grid, s.patch))
    return {
        "name": "mae", "image_size": plain(size), "patch": plain(s.patch), "channels": s.channels, "dim": s.dim,
        "class_token": s.class_token, "positions": "learned" if s.learned else "sincos",
        "norm_pix": bool(hints.norm_pix),
    }  # fmt: skip


def _grid(
    rows: int, class_token: bool, patch: tuple[int, ...], size: Any, hints: Hints, where: str
) -> tuple[tuple[int, int], bool]:
    """(the grid, whether the table has a row for the class token) of a table with so many rows."""
    if size is not None and hints.image_size is not None:
        agreed("img_size", pair(size), hints.image_size, f"the config.json of {where}")
    given = hints.image_size or (None if size is None else pair(size))
    if given is not None:
        grid = given[0] // patch[0], given[1] // patch[1]
        if rows - math.prod(grid) not in {0, int(class_token)}:
            raise UserError(
                f"{where} has {rows} positions, but images of {given[0]} x {given[1]} have {grid[0]} x {grid[1]} "
                f"patches of {patch[0]} x {patch[1]}{' and a class token' if class_token else ''}."
            )  # fmt: skip
        return grid, rows > math.prod(grid)
    for row in (True, False) if class_token else (False,):
        side = math.isqrt(rows - row)
        if side**2 == rows - row:
            return (side, side), row
    raise UserError(
        f"{where} has {rows} positions, which are no square: say for which images, --image-size ROWS COLUMNS."
    )


def placed(rules: Rules) -> Rules:
    """A method's name map as one of `Weights`, where a head has a place of its own."""

    def place(path: str) -> str:
        part = path.split("/")[0]
        return path if part == "stats" else f"head/params/{path}" if part in ("head", "fc_norm") else f"params/{path}"

    return [dataclasses.replace(rule, ours=place(rule.ours)) if isinstance(rule, Rule) else rule for rule in rules]


def block_count(tensors: Tensors, pattern: str) -> int:
    """Number of blocks by their names."""
    return 1 + max((int(m[1]) for name in tensors if (m := re.match(pattern, name))), default=-1)


def required(tensors: Tensors, name: str, where: str) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"{where} lacks {name}, without which its sizes cannot be told. Is the file whole?")
    return tensors[name]


def _absent_biases(tensors: Tensors, name: str) -> dict[str, str]:
    return {} if name in tensors else {"(encoder|decoder)/blocks/.+/attn/qkv/bias": "qkv has no bias: ours adds 0"}


def activation(name: str, where: str) -> str:
    if name not in ACTIVATIONS:
        raise UserError(f"{where} has the activation {name!r}; known are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def floats(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)


def pair(value: Any) -> tuple[int, int]:
    rows, columns = (value, value) if isinstance(value, int) else value[-2:]
    return int(rows), int(columns)


def plain(size: tuple[int, ...]) -> int | tuple[int, ...]:
    return size[0] if len(set(size)) == 1 else size
