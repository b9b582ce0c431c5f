"""Published Transformers of spectrograms as our BirdMAE: Audio-MAE and Bird-MAE, pretraining and classifiers.

Their names are those of image MAEs. What tells them apart: patches of one channel on a grid of (time, mel) whose fixed
table is made for (mel, time), the decoder's windows, Bird-MAE's prefixes. A table that is the same for both (a square
one) makes the same network, and is read as one of grey images; what cannot be told is asked for.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from mae_jax.core.errors import UserError
from mae_jax.interop import birdmae as layouts
from mae_jax.interop.clip_vision_teacher import inner_ratio
from mae_jax.interop.names import Tensors
from mae_jax.methods.birdmae import BirdMAE
from mae_jax.weights import audio_grid
from mae_jax.weights.families import Found, block_count, placed, plain, required
from mae_jax.weights.hints import Hints, agreed

HEAD_NORM = {"encoder/norm/": "the head norms the pooled tokens instead: ours scales by 1 and shifts by 0"}
AUDIOSET = {"spectrogram_mean": -4.2677393, "spectrogram_std": 4.5689974}
BIRDSET = {
    "spectrogram_mean": -7.2, "spectrogram_std": 4.43, "spectrogram_rate": 32_000, "spectrogram_padding": "minimum",
}  # fmt: skip


def is_official(tensors: Tensors, config: Mapping[str, Any], hints: Hints, where: str) -> bool:
    """Whether these are tensors of Audio-MAE or Bird-MAE. Raises UserError: it cannot be told."""
    if f"{_prefix(tensors)}patch_embed.proj.weight" not in tensors or "architecture" in config:  # that is timm's
        return False
    return _certain(tensors) or (_kernel(tensors)[1] == 1 and _layout(tensors, hints, where) is not None)


def official(tensors: Tensors, hints: Hints, where: str) -> Found:
    """A state dict of facebookresearch/AudioMAE or DBD-research-group/Bird-MAE."""
    if any(name.startswith("ppnet.") for name in tensors):
        raise UserError(
            f"{where} has a head of prototypes (ppnet.*), which weights files of ours do not hold: take --as encoder, "
            f"and `mae_jax evaluate --protocol prototypes`."
        )
    e = _prefix(tensors)
    d = "decoder.decoder_" if e else "decoder_"
    blocks = "decoder.blocks" if e else "decoder_blocks"
    decoder = f"{d}embed.weight" in tensors
    dim, channels, *cut = _kernel(tensors)
    layout = _layout(tensors, hints, where)
    if layout is None:
        raise UserError(f"{where} has the position table of images, and the decoder of Audio-MAE: is the file whole?")
    method: dict[str, Any] = {
        "name": "birdmae", "spectrogram_size": layout.size, "patch": plain((cut[0], cut[1])), "channels": channels,
        "stride": layout.stride, "dim": dim, "depth": block_count(tensors, rf"{re.escape(e)}blocks\.(\d+)\."),
        "heads": hints.heads_of(dim), "norm_eps": hints.norm_eps or 1e-6, "transposed": layout.transposed,
        "mlp_ratio": inner_ratio(required(tensors, f"{e}blocks.0.mlp.fc1.weight", where).shape[0], dim),
        "mask_ratio": 0.75 if e and dim > 768 else 0.8, "learned_positions": layout.learned,
    }  # fmt: skip
    assumed: dict[str, str] = {}
    if decoder:
        method |= _decoder(tensors, d, blocks, hints, where)
        if method["decoder_blocks"] != "plain":
            method["window"] = (6, 6) if layout.stride else (4, 4)
            assumed = {f"method.window={method['window']}, shift=(2, 0)": "as published: no tensor depends on them"}
    net = BirdMAE(**{key: value for key, value in method.items() if key != "name"})
    if decoder:
        fixed = layouts.table(net, net.decoder_dim)
        method["decoder_learned_positions"] = not audio_grid.same(required(tensors, f"{d}pos_embed", where), fixed)
        net = dataclasses.replace(net, decoder_learned_positions=method["decoder_learned_positions"])
    rules = layouts.birdmae_rules(net) if e else layouts.audiomae_rules(net)
    head, left_out, absent = None, {}, {}
    if "fc_norm.weight" in tensors and "head.weight" in tensors:
        agreed("pool", "mean", hints.pool, where)
        head = {"pool": "mean", "count": len(tensors["head.weight"]), "classes": []}
        rules = layouts.classifier_rules(net)
    else:
        left_out = {part: why for part, why in ASIDE.items() if f"{part}.weight" in tensors}
        tensors = {name: x for name, x in tensors.items() if name.rpartition(".")[0] not in left_out}
    if f"{e}norm.weight" not in tensors:
        absent = HEAD_NORM
    return Found(
        "official Bird-MAE" if e else "official Audio-MAE", tensors, placed(rules), method,
        "pretraining" if decoder else "classifier" if head else "encoder", head,
        norm_pix=True if decoder else None,  # as in all of the authors' recipes
        order="none" if layout.learned else "turned" if layout.transposed else "column", left_out=left_out,
        absent=absent, augment=_sound(layout.size[0], bool(e), hints), assumed=assumed,
    )  # fmt: skip


ASIDE = {
    "head": "without a norm of the mean before it it reads something that no head of ours does",
    "fc_norm": "a norm of the pooled tokens, which belongs to a head",
}


def _decoder(tensors: Tensors, d: str, blocks: str, hints: Hints, where: str) -> dict[str, Any]:
    """Fields of the decoder; those with windows have a temperature per head."""
    width = required(tensors, f"{d}embed.weight", where).shape[0]
    kinds = {"window": f"{blocks}.0.attn.tau", "window_v2": f"{blocks}.0.attn.logit_scale"}
    kind = next((kind for kind, name in kinds.items() if name in tensors), "plain")
    heads = hints.heads_of(width, "decoder_") if kind == "plain" else tensors[kinds[kind]].size
    agreed("decoder_heads", heads, hints.decoder_heads, where)
    ratio = inner_ratio(required(tensors, f"{blocks}.0.mlp.fc1.weight", where).shape[0], width)
    return {
        "decoder_blocks": kind, "decoder_dim": width, "decoder_heads": heads, "decoder_mlp_ratio": ratio,
        "decoder_depth": block_count(tensors, rf"{re.escape(blocks)}\.(\d+)\."),
    }  # fmt: skip


def _sound(frames: int, bird: bool, hints: Hints) -> dict[str, Any]:
    """The section augment: frames come every 10 ms, of clips of 10 s and 5 s a few are padding."""
    given = {"spectrogram_mean": hints.mean, "spectrogram_std": hints.std}
    seconds = {1024: 10.0, 512: 5.0}.get(frames, frames / 100)
    return (
        (BIRDSET if bird else AUDIOSET)
        | {"spectrogram_seconds": seconds}
        | {key: value[0] for key, value in given.items() if value is not None}
    )


def _layout(tensors: Tensors, hints: Hints, where: str) -> audio_grid.Layout | None:
    """What the encoder's table is for; None: images. Raises UserError: it cannot be told, or is not for the hint."""
    table = required(tensors, f"{_prefix(tensors)}pos_embed", where)
    *_, rows, columns = _kernel(tensors)
    return audio_grid.layout(table, (rows, columns), hints.image_size, _certain(tensors), where)


def _prefix(tensors: Tensors) -> str:
    """Of the encoder's names: Bird-MAE's pretraining has one."""
    return "encoder." if "encoder.patch_embed.proj.weight" in tensors else ""


def _kernel(tensors: Tensors) -> tuple[int, ...]:
    """(width, channels, frames, mel bins) of the patches."""
    return tensors[f"{_prefix(tensors)}patch_embed.proj.weight"].shape


def _certain(tensors: Tensors) -> bool:
    """Whether names alone tell: Bird-MAE's prefix before patches of two axes, the decoder's windows."""
    bird = len(_kernel(tensors)) == 4 and "encoder.cls_token" in tensors
    return bird or any(name.startswith("decoder_blocks.0.attn.tau") for name in tensors)
