"""antofuller/CROMA: the pretraining model and the released encoders.

Weights on their side are torch's, images NCHW; a patch is a vector ordered (channel, row, column), ours (row, column,
channel).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Constant, Rule, Rules, Transform, transpose
from mae_jax.interop.options import options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.methods.croma import CROMA
from mae_jax.tokens import alibi
from mae_jax.tokens.positions import sincos

OPTICAL, RADAR = 12, 2  # channels, in this order in the stack; fixed in the authors' code
DECODER_HEADS = 8  # too
REST: dict[str, Any] = {"stats": {}, "ema": {}, "frozen": {}}


@dataclasses.dataclass(frozen=True)
class Names:
    """What the authors call the parts: once in pretraining, once in the released extractor."""

    radar: str
    optical: str
    joint: str
    radar_gap: str
    optical_gap: str
    project: str  # before "qkv" and "q", "k", "v"
    out: str  # of self-attention; cross-attention's is to_out
    fc2: int  # its place in the feed-forward network


PRETRAINING = Names(
    "radar_encoder", "optical_encoder", "cross_encoder", "GAP_FFN_radar", "GAP_FFN_optical", "create_", "out", 2
)
EXTRACTOR = Names("s1_encoder", "s2_encoder", "cross_encoder", "GAP_FFN_s1", "GAP_FFN_s2", "to_", "to_out", 3)
# The released files hold one state dict per part; joined by dots, their names are these.
RELEASED = dataclasses.replace(EXTRACTOR, joint="joint_encoder", radar_gap="s1_GAP_FFN", optical_gap="s2_GAP_FFN")


def encoder_rules(method: CROMA, names: Names = RELEASED) -> list[Rule]:
    """Name map of the three encoders and the two pooled heads."""
    rules: list[Rule] = []
    for ours, theirs, channels in (("radar", names.radar, method.radar), ("optical", names.optical, method.optical)):
        kernel = _from_patch(_channels_last(channels, _patch(method)))
        rules += [
            Rule(f"{theirs}.linear_input.weight", f"{ours}/patch_embed/kernel", kernel),
            Rule(f"{theirs}.linear_input.bias", f"{ours}/patch_embed/bias"),
            *_stack(f"{theirs}.transformer", f"{ours}/blocks", names),
            *parts.norm(f"{theirs}.transformer.norm_out", f"{ours}/norm"),
        ]
    for ours, theirs in (("radar_gap", names.radar_gap), ("optical_gap", names.optical_gap)):
        rules += [
            *parts.norm(f"{theirs}.0", f"{ours}/norm"),
            *parts.linear(f"{theirs}.1", f"{ours}/mlp/fc1"),
            *parts.linear(f"{theirs}.3", f"{ours}/mlp/fc2"),
        ]
    layer, block = f"{names.joint}.layers.{{i}}", "joint/blocks/{i}"
    return [
        *rules,
        *_attention(f"{layer}.0", block, names),
        *parts.norm(f"{layer}.1.input_norm", f"{block}/norm2"),
        Rule(f"{layer}.1.{names.project}{{name:[qkv]}}.weight", f"{block}/cross/{{name}}/kernel", transpose),
        *parts.linear(f"{layer}.1.to_out", f"{block}/cross/proj"),
        *_feed_forward(f"{layer}.2", block, "norm3", names),
        *parts.norm(f"{names.joint}.norm_out", "joint/norm"),
    ]


def pretraining_rules(method: CROMA) -> Rules:
    """Name map of `CROMA`."""
    table = sincos(method.decoder_dim, method.grid)[None]
    last = _channels_last(method.optical + method.radar, _patch(method))
    kernel = Transform(lambda x: last.to_ours(x).T, lambda x: last.to_theirs(x.T))
    return [
        *encoder_rules(method, PRETRAINING),
        *parts.linear("decoder.encoder_to_decoder", "decoder/embed"),
        Rule("decoder.mask_token", "decoder/mask_token"),
        Constant("decoder.decoder_pos_embed", table, "fixed sine-cosine table: recomputed, and equal to ours"),
        *_stack("decoder.decoder", "decoder/blocks", PRETRAINING),
        *parts.norm("decoder.decoder.norm_out", "decoder/norm"),
        Rule("decoder.linear_output.weight", "decoder/pred/kernel", kernel),
        Rule("decoder.linear_output.bias", "decoder/pred/bias", last),
        Rule("global_contrast_loss.logit_scale", "contrast/temperature"),
        *parts.linear("global_contrast_loss.{sensor:radar|optical}_proj", "contrast/{sensor}"),
    ]


def pretraining_method(config: Mapping[str, Any]) -> CROMA:
    """Our method from the arguments of `CROMA` and the mask ratio of `get_mask`."""
    known = {
        "patch_size": 8, "encoder_dim": 768, "encoder_layers": 12, "attention_heads": 16, "decoder_dim": 512,
        "decoder_layers": 1, "num_patches": 225, "mask_ratio": 0.75,
    }  # fmt: skip
    o = options(config, known, what="CROMA", only={"total_channels": (OPTICAL + RADAR,)})
    return _checked(
        image_size=_side(o["num_patches"]) * o["patch_size"], patch=o["patch_size"], dim=o["encoder_dim"],
        depth=o["encoder_layers"], heads=o["attention_heads"], decoder_dim=o["decoder_dim"],
        decoder_depth=o["decoder_layers"], decoder_heads=DECODER_HEADS, mask_ratio=float(o["mask_ratio"]),
    )  # fmt: skip


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient on the stored images, the stored noise in place of both masks' draws."""
    method = pretraining_method(golden.config)
    rules = pretraining_rules(method)
    image = jnp.asarray(golden.channels_last("imgs", method.batch_spec["image"].shape))
    given = {f"mask_{s}": jnp.asarray(golden.input(f"noise_{s}")) for s in ("radar", "optical")}
    template, _ = jax.eval_shape(lambda x: method.init(jax.random.key(0), {"image": x}), image)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
        value, aux = method.loss(params, REST, {"image": image}, Context(jax.random.key(0), given=given))
        return value, (aux.seen, aux.metrics)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, (seen, metrics)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        pred = seen["pred"]
        return {
            **{f"{name}_encodings": seen[name] for name in ("radar", "optical", "joint")},
            **{name: seen[name] for name in ("radar_gap", "optical_gap")},
            **{f"mask_{s}": seen[f"hidden_{s}"].astype(jnp.float32) for s in ("radar", "optical")},
            "alibi_row0": alibi.full_bias(method.heads, method.grid)[0, :, 0],
            "pred": pred.reshape(*pred.shape[:2], *_patch(method), -1).transpose(0, 1, 4, 2, 3).reshape(pred.shape),
            "contrastive_loss": metrics["contrast"],
            "mae_loss": metrics["optical"] + metrics["radar"],
            "loss": value,
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, template)


def extractor_method(config: Mapping[str, Any]) -> tuple[CROMA, tuple[str, ...]]:
    """(our method, the sensors that it is given) from the arguments of `PretrainedCROMA`."""
    sizes = {"base": (768, 12), "large": (1024, 24)}
    known = {
        "size": "base", "modality": "both", "image_resolution": 120, "px": None, "dim": None, "depth": None,
        "num_heads": 16, "patch_size": 8,
    }  # fmt: skip
    o = options(config, known, what="PretrainedCROMA", inert=("pretrained_path",))
    sensors = {"both": ("optical", "radar"), "SAR": ("radar",), "optical": ("optical",)}
    for name, choices in (("size", sizes), ("modality", sensors)):
        if o[name] not in choices:
            raise UserError(f"PretrainedCROMA with {name}={o[name]!r} has no counterpart here: {', '.join(choices)}.")
    dim, depth = sizes[o["size"]]
    method = _checked(
        image_size=o["px"] or o["image_resolution"], patch=o["patch_size"], dim=o["dim"] or dim,
        depth=o["depth"] or depth, heads=o["num_heads"],
    )  # fmt: skip
    return method, sensors[o["modality"]]


def prepare_extractor(golden: Golden) -> Prepared:
    """`Method.encode` on the stored images of both sensors, or of one."""
    method, sensors = extractor_method(golden.config)
    side, _, channels = method.batch_spec["image"].shape
    inputs = {
        s: jnp.asarray(golden.channels_last(name, (side, side, c)))
        for s, name, c in (("optical", "optical", method.optical), ("radar", "sar", method.radar))
        if s in sensors
    }
    both = {"image": jnp.zeros((1, side, side, channels))}
    shapes, _ = jax.eval_shape(lambda x: method.init(jax.random.key(0), x), both)
    needed = {*sensors, *(f"{s}_gap" for s in sensors)} | ({"joint"} if len(sensors) == 2 else set())

    def run(params: dict[str, Any]) -> dict[str, Any]:
        found = jax.jit(lambda p: method.encode(p, REST, inputs).parts)(params)
        theirs = {"radar": "SAR", "optical": "optical", "joint": "joint"}
        return {f"{theirs[s]}_encodings": found[s] for s in theirs if s in found} | {
            f"{theirs[s]}_GAP": found[f"{s}_gap"] for s in theirs if s in found
        }

    return Prepared(run, encoder_rules(method, EXTRACTOR), {name: shapes[name] for name in shapes if name in needed})


CASES = {
    "CROMA (pretrain_croma.py)": prepare_pretraining,
    "PretrainedCROMA.forward (use_croma.py)": prepare_extractor,
}


def _stack(theirs: str, ours: str, names: Names) -> list[Rule]:
    layer, block = f"{theirs}.layers.{{i}}", f"{ours}/{{i}}"
    return [*_attention(f"{layer}.0", block, names), *_feed_forward(f"{layer}.1", block, "norm2", names)]


def _attention(theirs: str, block: str, names: Names) -> list[Rule]:
    return [
        *parts.norm(f"{theirs}.input_norm", f"{block}/norm1"),
        Rule(f"{theirs}.{names.project}qkv.weight", f"{block}/attn/qkv/kernel", transpose),
        *parts.linear(f"{theirs}.{names.out}", f"{block}/attn/proj"),
    ]


def _feed_forward(theirs: str, block: str, norm: str, names: Names) -> list[Rule]:
    return [
        *parts.norm(f"{theirs}.input_norm", f"{block}/{norm}"),
        *parts.linear(f"{theirs}.net.0", f"{block}/mlp/fc1"),
        *parts.linear(f"{theirs}.net.{names.fc2}", f"{block}/mlp/fc2"),
    ]


def _channels_last(channels: int, patch: tuple[int, int]) -> Transform:
    """The first axis from (channel, row, column) to (row, column, channel)."""

    def to_ours(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x.reshape(channels, *patch, *x.shape[1:]), 0, 2).reshape(x.shape)

    def to_theirs(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(x.reshape(*patch, channels, *x.shape[1:]), 2, 0).reshape(x.shape)

    return Transform(to_ours, to_theirs)


def _from_patch(last: Transform) -> Transform:
    """A linear layer that reads patches: theirs (out, channel row column), ours (row column channel, out)."""
    return Transform(lambda x: last.to_ours(x.T), lambda x: last.to_theirs(x).T)


def _checked(**fields: Any) -> CROMA:
    method = CROMA(optical=OPTICAL, radar=RADAR, **fields)
    method.check()
    return method


def _patch(method: CROMA) -> tuple[int, int]:
    return method.patch if isinstance(method.patch, tuple) else (method.patch, method.patch)


def _side(patches: int) -> int:
    side = math.isqrt(patches)
    if side**2 != patches:
        raise UserError(f"CROMA with num_patches={patches} has no square grid.")
    return side
