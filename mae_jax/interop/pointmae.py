"""Pang-Yatian/Point-MAE: the pretraining model and the classifier that is fine-tuned.

Names are those of the official state dicts, without the "module." that training on several devices puts before them;
the released pretrain.pth holds the pretraining model's under "base_model". Our tree is the parameters with the running
statistics under "stats".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Rule, Rules, Transform, Unused
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.losses.chamfer import Chamfer
from mae_jax.methods.base import Method
from mae_jax.methods.pointmae import PointMAE
from mae_jax.nets.layers import apply_stats

COUNTERS = Unused(r"{module:.+}.num_batches_tracked", "the running statistics have a constant momentum")
# (out, in, 1) <-> (in, out): a convolution over positions one by one.
CONV = Transform(lambda x: x[..., 0].T, lambda x: x.T[..., None])

LOSSES: dict[Any, Chamfer] = {"cdl1": "l1", "cdl2": "l2"}
CLASSES = 40  # where a classifier's file does not say


# Name maps ------------------------------------------------------------------------------------------------------------


def pretraining_rules() -> Rules:
    """Name map of `Point_MAE`."""
    return [
        COUNTERS,
        *tokenizer_rules("MAE_encoder.encoder."),
        *encoder_rules("MAE_encoder."),
        *decoder_rules("decoder", "MAE_decoder", "mask_token", "decoder_pos_embed", "increase_dim"),
    ]


def classifier_rules() -> Rules:
    """Name map of `PointTransformer`; of its head the linear one has only the first layer."""
    return [
        COUNTERS,
        *tokenizer_rules("encoder."),
        *encoder_rules(""),
        *class_rules("cls_token", "cls_pos", "class1"),
        *head_rules("cls_head_finetune"),
    ]


def tokenizer_rules(theirs: str) -> list[Rule]:
    """Name map of the mini PointNet."""
    first, second = f"{theirs}first_conv", f"{theirs}second_conv"
    return [
        *conv(f"{first}.0", "tokenizer/fc1"),
        *batch_norm(f"{first}.1", "tokenizer/norm1"),
        *conv(f"{first}.3", "tokenizer/fc2"),
        *conv(f"{second}.0", "tokenizer/fc3"),
        *batch_norm(f"{second}.1", "tokenizer/norm2"),
        *conv(f"{second}.3", "tokenizer/fc4"),
    ]


def encoder_rules(theirs: str) -> list[Rule]:
    """Name map of the encoder without class tokens."""
    return [
        *place(f"{theirs}pos_embed", "encoder/place"),
        *parts.blocks(f"{theirs}blocks.blocks", "encoder/blocks"),
        *parts.norm(f"{theirs}norm", "encoder/norm"),
    ]


def class_rules(token: str, position: str, ours: str) -> list[Rule]:
    """Name map of a class token."""
    return [Rule(token, f"encoder/{ours}/class_token"), Rule(position, f"encoder/{ours}/pos_embed")]


def decoder_rules(ours: str, blocks: str, token: str, positions: str, head: str) -> list[Rule]:
    """Name map of a decoder, whose parts lie side by side in the authors' model."""
    return [
        Rule(token, f"{ours}/mask_token"),
        *place(positions, f"{ours}/place"),
        *parts.blocks(f"{blocks}.blocks", f"{ours}/blocks"),
        *parts.norm(f"{blocks}.norm", f"{ours}/norm"),
        *conv(f"{head}.0", f"{ours}/pred"),
    ]


def head_rules(theirs: str) -> list[Rule]:
    """Name map of a classification head of three layers; of a linear one see `prepare_classifier`."""
    rules: list[Rule] = []
    for i in range(3):
        rules += parts.linear(f"{theirs}.{4 * i}", f"head/fc{i}")
    return rules + batch_norm(f"{theirs}.1", "head/norm0") + batch_norm(f"{theirs}.5", "head/norm1")


def place(theirs: str, ours: str) -> list[Rule]:
    """A position MLP: linear, GELU, linear."""
    return [*parts.linear(f"{theirs}.0", f"{ours}/fc1"), *parts.linear(f"{theirs}.2", f"{ours}/fc2")]


def conv(theirs: str, ours: str) -> list[Rule]:
    """A convolution of width 1."""
    return [Rule(f"{theirs}.weight", f"{ours}/kernel", CONV), Rule(f"{theirs}.bias", f"{ours}/bias")]


def batch_norm(theirs: str, ours: str) -> list[Rule]:
    """A batch norm with its statistics."""
    statistics = [Rule(f"{theirs}.running_{what}", f"stats/{ours}/{what}") for what in ("mean", "var")]
    return [*parts.norm(theirs, ours), *statistics]


# The pretraining model ------------------------------------------------------------------------------------------------


def sizes(config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Fields of our method from the arguments of the pretraining models, which have these sizes in two levels."""
    known = {"group_size": REQUIRED, "num_group": REQUIRED, "loss": "cdl2", "transformer_config": REQUIRED}
    o = options(config, known, what=what, only={"loss": tuple(LOSSES)}, inert=("NAME",))
    inner = {
        "mask_ratio": REQUIRED, "trans_dim": REQUIRED, "depth": REQUIRED, "num_heads": REQUIRED,
        "decoder_depth": REQUIRED, "decoder_num_heads": REQUIRED, "drop_path_rate": 0.0, "mask_type": "rand",
    }  # fmt: skip
    only = {"encoder_dims": (o["transformer_config"].get("trans_dim"),), "mask_type": ("rand", "block")}
    t = options(o["transformer_config"], inner, what=f"{what}'s transformer_config", only=only)
    return dict(
        groups=o["num_group"], group_points=o["group_size"], chamfer=LOSSES[o["loss"]], dim=t["trans_dim"],
        depth=t["depth"], heads=t["num_heads"], decoder_depth=t["decoder_depth"], decoder_heads=t["decoder_num_heads"],
        drop_path=float(t["drop_path_rate"]), mask_ratio=float(t["mask_ratio"]),
        mask="random" if t["mask_type"] == "rand" else "block",
    )  # fmt: skip


def pretraining_method(config: Mapping[str, Any], points: int = 1024) -> PointMAE:
    """Our method from the arguments of `Point_MAE`."""
    method = PointMAE(points=points, **sizes(config, "Point_MAE"))
    method.check()
    return method


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient in eval mode with the stored mask; the tokenizer in training mode besides."""
    points, mask = jnp.asarray(golden.input("points")), jnp.asarray(golden.input("mask"))
    method = pretraining_method(golden.config, points.shape[1])
    rules, template = pretraining_rules(), shapes_of(method, points)
    drawn = dataclasses.replace(method, mask="random")  # by either law the stored mask takes the draw's place

    @jax.jit
    def both(params: dict[str, Any], stats: dict[str, Any]) -> Any:
        ctx = Context(jax.random.key(0), train=False, given={"mask": mask.astype(jnp.float32)})
        rest = {"stats": stats, "ema": {}, "frozen": {}}
        return jax.value_and_grad(lambda p: drawn.loss(p, rest, {"points": points}, ctx), has_aux=True)(params)

    def run(weights: dict[str, Any]) -> dict[str, Any]:
        params, stats = split(weights)
        (value, aux), gradient = both(params, stats)
        seen = aux.seen
        return {
            "neighborhood": seen["groups"],
            "center": seen["centres"],
            "tokens": seen["tokens"],
            "latent": seen["latent"],
            "pred": seen["pred"],
            "loss": value,
            **gradient_norms(rules, gradient),
            "tokens_batchnorm_train": trained_tokens(method, params, stats, seen["groups"]),
        }

    return Prepared(run, rules, template)


def shapes_of(method: Method, points: jax.Array) -> dict[str, Any]:
    """Shapes of the parameters and statistics as one tree."""
    params, stats = jax.eval_shape(lambda x: method.init(jax.random.key(0), {"points": x}), points)
    return params | {"stats": stats}


def trained_tokens(method: Any, params: Any, stats: Any, groups: jax.Array) -> jax.Array:
    """The tokens by the batch's own moments."""
    return apply_stats(method.tokenizer, params["tokenizer"], stats["tokenizer"], groups, train=True)[0]


def split(weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, stats) of one imported tree, as jax arrays."""
    arrays = jax.tree.map(jnp.asarray, dict(weights))
    stats = arrays.pop("stats")
    return arrays, stats


# The classifier -------------------------------------------------------------------------------------------------------

KINDS = {"full": "mlp3", "mlp3": "mlp3", "linear": "linear"}


def classifier_method(config: Mapping[str, Any], points: int) -> Any:
    """Our fine-tuning method from the arguments of `PointTransformer`, of Point-MAE or Point-CMAE."""
    from mae_jax.transfer.finetune import FineTune

    known = {
        "trans_dim": REQUIRED, "depth": REQUIRED, "num_heads": REQUIRED, "group_size": REQUIRED, "num_group": REQUIRED,
        "cls_dim": CLASSES, "type": "full", "drop_path_rate": 0.0,
    }  # fmt: skip
    only = {"encoder_dims": (config.get("trans_dim"),), "type": tuple(KINDS)}
    o = options(config, known, what="PointTransformer", only=only, inert=("NAME",))
    inner = PointMAE(
        points=points, groups=o["num_group"], group_points=o["group_size"], dim=o["trans_dim"], depth=o["depth"],
        heads=o["num_heads"], decoder_heads=1, class_token=True,
    )  # fmt: skip
    trained = None if o["type"] == "full" else (r"/(class_token|pos_embed)$",)
    kind: Any = KINDS[o["type"]]
    method = FineTune(inner=inner, classes=o["cls_dim"], pool="class_max", head_kind=kind, trained=trained)
    method.check()
    return method


def prepare_classifier(golden: Golden) -> Prepared:
    """The fine-tuning method's loss, and its gradient with respect to every parameter, in eval mode.

    The frozen protocols ("linear", "mlp3") freeze in the training loop: the model's own gradient reaches everything.
    """
    points, labels = jnp.asarray(golden.input("points")), jnp.asarray(golden.input("labels"))
    method = dataclasses.replace(classifier_method(golden.config, points.shape[1]), trained=None)
    linear = method.head_kind == "linear"
    rules = classifier_rules()
    if linear:
        rules = [*rules[: -len(head_rules(""))], *parts.linear("cls_head_finetune.0", "head")]
    template, batch = shapes_of(method, points), {"points": points, "label": labels.astype(jnp.int32)}

    @jax.jit
    def both(params: dict[str, Any], stats: dict[str, Any]) -> Any:
        rest = {"stats": stats, "ema": {}, "frozen": {}}
        ctx = Context(jax.random.key(0), train=False)
        features = method.encode(params, rest, batch)
        tokens = jnp.concatenate([features.prefix, features.normed], axis=1)
        return tokens, jax.value_and_grad(lambda p: method.loss(p, rest, batch, ctx), has_aux=True)(params)

    def run(weights: dict[str, Any]) -> dict[str, Any]:
        tokens, ((value, aux), gradient) = both(*split(weights))
        return {
            "tokens": np.asarray(tokens),
            "logits": aux.seen["logits"],
            "loss": value,
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, template)


CASES = {"Point_MAE": prepare_pretraining, "PointTransformer": prepare_classifier}
