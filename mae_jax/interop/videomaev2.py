"""OpenGVLab/VideoMAEv2: the pretraining model, the classifier, and the running cells.

Names and layouts are VideoMAE's (interop/videomae.py).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.interop import videomae
from mae_jax.interop.golden import Golden
from mae_jax.interop.options import options
from mae_jax.interop.parity import Prepared
from mae_jax.masking.running_cell import cell_maps
from mae_jax.methods.videomaev2 import VideoMAEv2


def pretraining_method(config: Mapping[str, Any], frames: int | None = None) -> VideoMAEv2:
    """Our method from the arguments of `PretrainVisionTransformer` and the two ratios."""
    frames = config.get("all_frames", 16) if frames is None else frames
    more = {"all_frames": 16, "cos_attn": False, "decoder_mask_ratio": 0.0}
    fields, o = videomae.pretraining_fields(config, frames, more)
    method = VideoMAEv2(**fields, decoder_ratio=float(o["decoder_mask_ratio"]), cosine=bool(o["cos_attn"]))
    videomae.check_out(o, method)
    return method


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient on the stored clips, under both stored masks (the decoder's: True is dropped)."""
    method = pretraining_method(golden.config, golden.input("video").shape[1])
    dropped = np.asarray(golden.input("decode_mask"), bool) if "decode_mask" in golden.inputs else None
    given: dict[str, jax.Array] = {}
    if dropped is not None:
        counts = (~dropped).sum(axis=1)
        if not (counts == method.asked).all():
            raise UserError(
                f"in/decode_mask asks for {counts.tolist()} tokens, decoder_mask_ratio says {method.asked}."
            )
        given = {"ask": jnp.asarray(np.stack([np.flatnonzero(~row) for row in dropped]), jnp.int32)}

    def outputs(seen: Mapping[str, jax.Array]) -> dict[str, Any]:
        return {
            "latent": seen["latent"], "pred": seen["pred"], "target": seen["target"],
            "loss_per_token": seen["per_token"], "loss_mask": seen["scored"],
        }  # fmt: skip

    return videomae.prepared(golden, method, given, outputs)


def prepare_cells(golden: Golden) -> Prepared:
    """Every file's output "cell_TxHxW_rPERCENT": the four maps [4, T, H * W]."""
    options(golden.config, {"sizes": None}, what="RunningCellMaskingGenerator")

    def run(params: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for name in golden.outputs:
            _, size, ratio = name.split("_")
            slots, rows, columns = (int(n) for n in size.split("x"))
            maps = cell_maps((slots, rows, columns), int(ratio.removeprefix("r")) / 100)
            out[name] = maps.reshape(4, slots, rows * columns).astype(np.uint8)
        return out

    return Prepared(run)


CASES = {
    "PretrainVisionTransformer": prepare_pretraining,
    "VisionTransformer": videomae.prepare_classifier,
    "RunningCellMaskingGenerator": prepare_cells,
}
