"""Amazingren/Point-CMAE: the pretraining model, and the classifier under its three protocols.

Names are those of the official state dicts (interop/pointmae.py); what the second pass owns ends in "2" or "_".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop import pointmae as shared
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Constant, Rule, Rules, Unused
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.methods.pointcmae import PASSES, PointCMAE


def pretraining_rules() -> Rules:
    """Name map of `Point_CMAE`."""
    rules: list[Rule | Constant | Unused] = [
        shared.COUNTERS,
        *shared.tokenizer_rules("MAE_encoder.encoder."),
        *shared.encoder_rules("MAE_encoder."),
        *parts.linear("MAE_encoder.proj_cls.0", "projector/fc0"),
        *shared.batch_norm("MAE_encoder.proj_cls.1", "projector/norm0"),
        *parts.linear("MAE_encoder.proj_cls.3", "projector/fc1"),
    ]
    for i, suffix in zip(PASSES, ("", "_")):
        rules += shared.class_rules(f"MAE_encoder.cls_token{i}", f"MAE_encoder.cls_pos{i}", f"class{i}")
        rules += shared.decoder_rules(
            f"decoder{i}", f"MAE_decoder{suffix}", f"mask_token{i}", f"decoder_pos_embed{i}", f"increase_dim{suffix}"
        )
    return rules


def pretraining_method(config: Mapping[str, Any], points: int = 1024) -> PointCMAE:
    """Our method from the arguments of `Point_CMAE`."""
    method = PointCMAE(points=points, **shared.sizes(config, "Point_CMAE"))
    method.check()
    return method


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient, and the contrast's alone, in eval mode with the stored masks."""
    points = jnp.asarray(golden.input("points"))
    method = pretraining_method(golden.config, points.shape[1])
    rules, template = pretraining_rules(), shared.shapes_of(method, points)
    given = {f"mask{i}": jnp.asarray(golden.input(f"mask{i}")).astype(jnp.float32) for i in PASSES}
    batch, drawn = {"points": points}, dataclasses.replace(method, mask="random")  # the stored masks come by either law

    @jax.jit
    def both(params: dict[str, Any], stats: dict[str, Any]) -> Any:
        rest = {"stats": stats, "ema": {}, "frozen": {}}

        def loss(params: dict[str, Any]) -> Any:
            return drawn.loss(params, rest, batch, Context(jax.random.key(0), train=False, given=given))

        contrast = jax.grad(lambda p: loss(p)[1].metrics["contrast"])(params)
        return jax.value_and_grad(loss, has_aux=True)(params), contrast

    def run(weights: dict[str, Any]) -> dict[str, Any]:
        params, stats = shared.split(weights)
        ((value, aux), gradient), contrast = both(params, stats)
        seen = aux.seen
        outputs = {
            "neighborhood": seen["groups"], "center": seen["centres"], "tokens": seen["tokens"],
            "loss_recon": aux.metrics["reconstruction"], "loss_contrast": aux.metrics["contrast"], "loss": value,
            "tokens_batchnorm_train": shared.trained_tokens(method, params, stats, seen["groups"]),
        }  # fmt: skip
        names = {"latent": "latent", "proj_cls": "projected", "pred": "pred", "decoder_features": "features"}
        outputs |= {f"{theirs}{i}": seen[f"{ours}{i}"] for theirs, ours in names.items() for i in PASSES}
        outputs |= gradient_norms(rules, gradient) | gradient_norms(rules, contrast, "grad_norm_contrast")
        return outputs

    return Prepared(run, rules, template)


CASES = {"Point_CMAE": prepare_pretraining, "PointTransformer": shared.prepare_classifier}
