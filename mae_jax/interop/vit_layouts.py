"""Name maps of published plain ViTs, with or without MAE's decoder: the official layout, Hugging Face's, big_vision's.

All maps fill {"params": {"encoder", "decoder"}, "head"}, the trees of a weights file. Where positions are fixed their
tables are no parameters: `tables` says under which names they are found.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from mae_jax.interop import blocks as parts
from mae_jax.interop.clip_vision_teacher import separate_qkv
from mae_jax.interop.names import Constant, Rule, Rules, Tensors, Transform, Unused, identity, stacked
from mae_jax.tokens.positions import sincos, with_prefix

ENCODER, DECODER, HEAD = "params/encoder", "params/decoder", "head/params"
RECOMPUTED = "fixed sine-cosine table: recomputed"
# A table without a row for the class token, to which ours gives a row of zeros.
CLASS_ROW = Transform(lambda x: np.pad(x, ((0, 0), (1, 0), (0, 0))), lambda x: x[:, 1:])


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a name map depends on.

    Attributes:
      channels, patch: of the input and its patches.
      grid: patches along each axis.
      dim, decoder_dim: widths; `decoder_dim` None: there is no decoder.
      learned: whether the encoder's positions are parameters.
      class_token: whether there is one. class_row: whether the position table has a row for it.
    """

    channels: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    dim: int
    decoder_dim: int | None = None
    learned: bool = False
    class_token: bool = True
    class_row: bool = True

    @property
    def rows(self) -> int:
        """Rows of zeros in front of a fixed table."""
        return int(self.class_token and self.class_row)

    def encoder_table(self) -> np.ndarray:
        """The fixed table of the encoder, (1, rows + n, dim)."""
        return with_prefix(sincos(self.dim, self.grid), self.rows)[None]

    def decoder_table(self) -> np.ndarray:
        """The fixed table of the decoder, (1, 1 + n, decoder_dim)."""
        assert self.decoder_dim is not None
        return with_prefix(sincos(self.decoder_dim, self.grid), int(self.class_token))[None]


def official(s: Sizes) -> Rules:
    """facebookresearch/mae in all its files, and timm's plain ViTs, which have the same names."""
    rules: list[Rule | Constant | Unused] = [
        Rule("cls_token", f"{ENCODER}/class_token"),
        _positions("pos_embed", s),
        *parts.patch_embed("patch_embed.proj", f"{ENCODER}/patch_embed", s.channels, s.patch),
        *parts.blocks("blocks", f"{ENCODER}/blocks"),
        *parts.norm("norm", f"{ENCODER}/norm"),
        *parts.norm("fc_norm", f"{HEAD}/fc_norm"),
        *parts.linear("head", f"{HEAD}/head"),
        Unused("attn_pool.{rest:.*}", "attention pooling: no head of ours reads features that way"),
    ]
    if s.decoder_dim is not None:
        rules += [
            Constant("decoder_pos_embed", s.decoder_table(), RECOMPUTED),
            *parts.linear("decoder_embed", f"{DECODER}/embed"),
            Rule("mask_token", f"{DECODER}/mask_token"),
            *parts.blocks("decoder_blocks", f"{DECODER}/blocks"),
            *parts.norm("decoder_norm", f"{DECODER}/norm"),
            *parts.linear("decoder_pred", f"{DECODER}/pred"),
        ]
    return rules


def mmpretrain(s: Sizes) -> Rules:
    """mmpretrain's MAE and ColorMAE, `backbone` and `neck`: both tables have the row first."""
    table = lambda dim: with_prefix(sincos(dim, s.grid, first="row"), 1)[None]
    position = Rule("backbone.pos_embed", f"{ENCODER}/pos_embed") if s.learned else Constant(
        "backbone.pos_embed", table(s.dim), RECOMPUTED
    )  # fmt: skip
    rules: list[Rule | Constant | Unused] = [
        Rule("backbone.cls_token", f"{ENCODER}/class_token"),
        position,
        *parts.patch_embed("backbone.patch_embed.projection", f"{ENCODER}/patch_embed", s.channels, s.patch),
        *_mmpretrain_blocks("backbone.layers", f"{ENCODER}/blocks"),
        *parts.norm("backbone.ln1", f"{ENCODER}/norm"),
        Unused(r"data_preprocessor.{rest:.*}", "the colours of the input"),
    ]
    if s.decoder_dim is not None:
        rules += [
            Constant("neck.decoder_pos_embed", table(s.decoder_dim), RECOMPUTED),
            *parts.linear("neck.decoder_embed", f"{DECODER}/embed"),
            Rule("neck.mask_token", f"{DECODER}/mask_token"),
            *_mmpretrain_blocks("neck.decoder_blocks", f"{DECODER}/blocks"),
            *parts.norm("neck.ln1", f"{DECODER}/norm"),
            *parts.linear("neck.decoder_pred", f"{DECODER}/pred"),
        ]
    return rules


def _mmpretrain_blocks(theirs: str, ours: str) -> list[Rule]:
    block, mine = theirs + r".{i:\d+}", ours + "/{i}"
    return [
        *(rule for k in "12" for rule in parts.norm(f"{block}.ln{k}", f"{mine}/norm{k}")),
        *parts.linear(f"{block}.attn.{{layer:qkv|proj}}", f"{mine}/attn/{{layer}}"),
        *parts.linear(f"{block}.ffn.layers.0.0", f"{mine}/mlp/fc1"),
        *parts.linear(f"{block}.ffn.layers.1", f"{mine}/mlp/fc2"),
    ]


@dataclasses.dataclass(frozen=True)
class HuggingFaceNames:
    """Which of transformers' spellings: the stacks' templates, and whether a block's parts have the published names.

    Attributes:
      prefix: "vit." in front of the encoder of a model with a head or a decoder.
      layers, decoder_layers: the stacks, with {i} for the number.
      published: "attention.attention.query" and so on, as all files on the hub have them; else "attention.q_proj",
        which models of transformers 5 have in memory.
    """

    prefix: str = "vit."
    layers: str = "encoder.layer.{i}"
    decoder_layers: str = "decoder_layers.{i}"
    published: bool = True

    @classmethod
    def found(cls, tensors: Tensors) -> "HuggingFaceNames":
        """The spelling of a file."""
        names = list(tensors)
        prefix = "vit." if any(name.startswith("vit.") for name in names) else ""
        old = any(name.startswith(f"{prefix}encoder.layer.") for name in names)
        # transformers 5.24 renames the decoder's layers too when it saves: decoder.decoder_encoder.layer.0...
        saved = any(name.startswith("decoder.decoder_encoder.layer.") for name in names)
        return cls(
            prefix, "encoder.layer.{i}" if old else "layers.{i}",
            "decoder_encoder.layer.{i}" if saved else "decoder_layers.{i}",
            any(".attention.attention." in name for name in names),
        )  # fmt: skip


def hugging_face(s: Sizes, names: HuggingFaceNames) -> Rules:
    """ViTMAEModel, ViTMAEForPreTraining, ViTModel and ViTForImageClassification."""
    vit = names.prefix
    rules: list[Rule | Constant | Unused] = [
        Rule(f"{vit}embeddings.cls_token", f"{ENCODER}/class_token"),
        _positions(f"{vit}embeddings.position_embeddings", s),
        *parts.patch_embed(
            f"{vit}embeddings.patch_embeddings.projection", f"{ENCODER}/patch_embed", s.channels, s.patch
        ),
        *_hugging_face_blocks(vit + names.layers, f"{ENCODER}/blocks", names.published),
        *parts.norm(f"{vit}layernorm", f"{ENCODER}/norm"),
        *parts.linear("classifier", f"{HEAD}/head"),
        Unused(f"{vit}pooler.{{rest:.*}}", "the pooler (a dense layer and tanh on the class token) is no part of ours"),
    ]
    if s.decoder_dim is not None:
        rules += [
            Constant("decoder.decoder_pos_embed", s.decoder_table(), RECOMPUTED),
            *parts.linear("decoder.decoder_embed", f"{DECODER}/embed"),
            Rule("decoder.mask_token", f"{DECODER}/mask_token"),
            *_hugging_face_blocks(f"decoder.{names.decoder_layers}", f"{DECODER}/blocks", names.published),
            *parts.norm("decoder.decoder_norm", f"{DECODER}/norm"),
            *parts.linear("decoder.decoder_pred", f"{DECODER}/pred"),
        ]
    return rules


def _hugging_face_blocks(theirs: str, ours: str, published: bool) -> list[Rule]:
    block, mine = theirs.replace("{i}", r"{i:\d+}"), ours + "/{i}"
    if published:
        attention = separate_qkv(
            f"{block}.attention", f"{mine}/attn",
            ("attention.query", "attention.key", "attention.value"), "output.dense",
        )  # fmt: skip
        mlp = {"intermediate.dense": "fc1", "output.dense": "fc2"}
    else:
        attention = separate_qkv(f"{block}.attention", f"{mine}/attn", ("q_proj", "k_proj", "v_proj"), "o_proj")
        mlp = {"mlp.fc1": "fc1", "mlp.fc2": "fc2"}
    return [
        *attention,
        *parts.norm(f"{block}.layernorm_before", f"{mine}/norm1"),
        *parts.norm(f"{block}.layernorm_after", f"{mine}/norm2"),
        *(rule for name, layer in mlp.items() for rule in parts.linear(f"{block}.{name}", f"{mine}/mlp/{layer}")),
    ]


# big_vision, and google-research/vision_transformer before it ---------------------------------------------------------


def tidy_big_vision(tensors: Tensors) -> dict[str, np.ndarray]:
    """Names without "params/", one array per layer where layers were scanned, one name for the position table."""
    if any(name.startswith("params/") for name in tensors):
        tensors = {name.removeprefix("params/"): x for name, x in tensors.items() if name.startswith("params/")}
    tidy: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if scanned := re.fullmatch(r"Transformer/encoderblock/(.+)", name):
            tidy |= {f"Transformer/encoderblock_{i}/{scanned[1]}": layer for i, layer in enumerate(tensor)}
        elif name in ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"):
            tidy["pos_embedding"] = tensor
        else:
            tidy[name] = tensor
    return tidy


def big_vision(s: Sizes, heads: int, first: bool) -> Rules:
    """big_vision's ViT after `tidy_big_vision`; `first`: the module numbers of the first release (MlpBlock_3)."""
    width = s.dim // heads
    block, mine = r"Transformer/encoderblock_{i:\d+}", f"{ENCODER}/blocks/{{i}}"
    attention, mlp, norm2 = (
        ("MultiHeadDotProductAttention_1", "MlpBlock_3", "LayerNorm_2")
        if first
        else ("MultiHeadDotProductAttention_0", "MlpBlock_0", "LayerNorm_1")
    )
    into = Transform(lambda x: x.reshape(x.shape[0], -1), lambda x: x.reshape(-1, heads, width))  # (d, heads, width)
    bias = Transform(lambda x: x.reshape(-1), lambda x: x.reshape(heads, width))
    out = Transform(lambda x: x.reshape(-1, x.shape[-1]), lambda x: x.reshape(heads, width, -1))
    kernel = Transform(lambda x: x.reshape(-1, x.shape[-1]), lambda x: x.reshape(*s.patch, s.channels, -1))
    qkv = tuple(f"{block}/{attention}/{name}" for name in ("query", "key", "value"))
    rules: list[Rule | Constant | Unused] = [
        Rule("cls", f"{ENCODER}/class_token"),
        Rule("pos_embedding", f"{ENCODER}/pos_embed", identity if s.class_row or not s.class_token else CLASS_ROW),
        Rule("embedding/kernel", f"{ENCODER}/patch_embed/kernel", kernel),
        Rule("embedding/bias", f"{ENCODER}/patch_embed/bias"),
        Rule(tuple(f"{name}/kernel" for name in qkv), f"{mine}/attn/qkv/kernel", stacked(3, into)),
        Rule(tuple(f"{name}/bias" for name in qkv), f"{mine}/attn/qkv/bias", stacked(3, bias)),
        Rule(f"{block}/{attention}/out/kernel", f"{mine}/attn/proj/kernel", out),
        Rule(f"{block}/{attention}/out/bias", f"{mine}/attn/proj/bias"),
        *(
            Rule(f"{block}/{mlp}/Dense_{k}/{what}", f"{mine}/mlp/fc{k + 1}/{what}")
            for k in (0, 1)
            for what in ("kernel", "bias")
        ),
        *_flax_norm(f"{block}/LayerNorm_0", f"{mine}/norm1"),
        *_flax_norm(f"{block}/{norm2}", f"{mine}/norm2"),
        *_flax_norm("Transformer/encoder_norm", f"{ENCODER}/norm"),
    ]
    return rules


def big_vision_head(tensors: Tensors) -> tuple[Rules, dict[str, str]]:
    """(the rules of what comes after the encoder, {what is left out: why}) of a tidy file."""
    out = {}
    if any(name.startswith("MAPHead_0/") for name in tensors):
        out["MAPHead_0"] = "attention pooling with an MLP behind it: no head of ours reads features that way"
    if any(name.startswith("pre_logits/") for name in tensors):
        out["pre_logits"] = "a dense layer and tanh before the head: no head of ours has one"
    unused = [Unused(f"{{name:{name}/.+}}", reason) for name, reason in out.items()]
    if out:
        if "head/kernel" in tensors:
            out["head"] = f"it reads what {', '.join(out)} gives"
        return [*unused, Unused("head/{rest:.+}", "reads what is left out")], out
    return [Rule("head/{what:kernel|bias}", f"{HEAD}/head/{{what}}")], out


def _flax_norm(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}/{what}", f"{ours}/{what}") for what in ("scale", "bias")]


# Positions ------------------------------------------------------------------------------------------------------------


def _positions(theirs: str, s: Sizes) -> Rule | Constant:
    """The encoder's table: a parameter, or a constant that the file must hold."""
    if not s.learned:
        return Constant(theirs, s.encoder_table(), RECOMPUTED)
    return Rule(theirs, f"{ENCODER}/pos_embed", identity if s.class_row or not s.class_token else CLASS_ROW)


Order = Literal["column", "row", "moco", "zeros", "flat", "turned", "centres", "none"]
ORDERS: Mapping[Order, str] = {
    "column": "fixed sine-cosine, column first (MAE)",
    "row": "fixed sine-cosine, row first (CAE, mmpretrain)",
    "moco": "fixed sine-cosine, column first, frequencies to 1/10000 (big_vision's sincos2d)",
    "zeros": "all zeros (transformers 5 leaves them so in a ViTMAE that is made from scratch)",
    "flat": "fixed sine-cosine of tokens counted through (VideoMAE)",
    "turned": "fixed sine-cosine, made for (mel, time) and added to tokens in order of (time, mel) (Audio-MAE)",
    "centres": "an MLP on the coordinates of the groups' centres (Point-MAE)",
    "none": "learned",
}


def moco_sincos(dim: int, grid: tuple[int, int]) -> np.ndarray:
    """big_vision's `posemb_sincos_2d` [n, dim]: the lowest frequency is 1/10000 itself, so that its steps are wider."""
    rows, columns = (axis.reshape(-1, 1) for axis in np.mgrid[: grid[0], : grid[1]])
    omega = 10_000.0 ** -(np.arange(dim // 4) / (dim // 4 - 1))
    return np.concatenate([f(x * omega) for x in (columns, rows) for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def order_of(table: np.ndarray, grid: tuple[int, int], rows: int, tolerance: float = 1e-5) -> Order:
    """Which known fixed table a file's (1, rows + n, dim) is; "none": no known one, so it was learned."""
    dim = table.shape[-1]
    if not table.any():
        return "zeros"
    if dim % 4 or dim < 8 or np.abs(table[0, :rows]).max(initial=0.0) > tolerance:
        return "none"
    body = table[0, rows:].astype(np.float32)
    known: dict[Order, np.ndarray] = {
        "column": sincos(dim, grid), "row": sincos(dim, grid, first="row"), "moco": moco_sincos(dim, grid),
    }  # fmt: skip
    return next((name for name, t in known.items() if np.abs(t - body).max() <= tolerance), "none")
