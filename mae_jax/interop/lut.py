"""naver-ai/lut: the pretraining model, student and teacher.

Names are those of the official state dict: MAE's, and two heads that are torch Sequentials. Our tree is the parameters
with the running statistics under "stats".
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop import mae
from mae_jax.interop.golden import Golden, rule_weight
from mae_jax.interop.names import Rule, Rules, Unused, import_weights, transpose
from mae_jax.interop.options import options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.methods.base import config_fields
from mae_jax.methods.lut import LUT
from mae_jax.methods.mae import MAE
from mae_jax.nets.heads import HeadActivation, HeadNorm

COUNTERS = Unused(r"{module:.+}.num_batches_tracked", "the running statistics have a constant momentum")
NORMS: dict[Any, HeadNorm] = {"BN": "bn", "LN": "ln", "None": "none", None: "none"}
ACTIVATIONS: dict[str, HeadActivation] = {"ReLU": "relu", "GELU": "gelu"}


def pretraining_rules(method: LUT) -> Rules:
    """Name map of `MaskedAutoencoderViT_LUT`."""
    shared = MAE(**{name: getattr(method, name) for name in config_fields(MAE) if name in config_fields(LUT)})
    rules = [*mae.pretraining_rules(shared), COUNTERS]
    stride = 2 if method.head_norm == "none" else 3  # of a Sequential: linear, norm where there is one, activation
    for head, depth in (("head", method.head_depth), ("predictor", method.predictor_depth)):
        for i in range(depth):
            rules.append(Rule(f"{head}.{stride * i}.weight", f"{head}/fc{i}/kernel", transpose))
        for i in range(depth - 1 if stride == 3 else 0):
            norm = f"{head}.{stride * i + 1}"
            rules += parts.norm(norm, f"{head}/norm{i}")
            rules += [Rule(f"{norm}.running_{what}", f"stats/{head}/norm{i}/{what}") for what in ("mean", "var")]
    return rules


def pretraining_method(config: Mapping[str, Any]) -> LUT:
    """Our method from the arguments of `MaskedAutoencoderViT_LUT`, of its forward, and the weights of the losses."""
    heads = {
        "depth_head": 2, "depth_pred": 2, "head_mlp_dim": 4096, "head_norm_layer": "BN", "head_act_layer": "ReLU",
        "w_bc": 0.25,
    }  # fmt: skip
    shared = mae.pretraining_method({k: v for k, v in config.items() if k not in heads and k != "w_mae"})
    only: dict[str, tuple[Any, ...]] = {
        "head_norm_layer": tuple(NORMS), "head_act_layer": tuple(ACTIVATIONS), "w_mae": (1.0,),
    }  # fmt: skip
    own = {k: v for k, v in config.items() if k in heads or k == "w_mae"}
    o = options(own, heads, what="MaskedAutoencoderViT_LUT", only=only)
    method = LUT(
        **{name: getattr(shared, name) for name in config_fields(MAE) if name in config_fields(LUT)},
        head_depth=o["depth_head"], predictor_depth=o["depth_pred"], head_hidden=o["head_mlp_dim"],
        head_norm=NORMS[o["head_norm_layer"]], head_activation=ACTIVATIONS[o["head_act_layer"]],
        bc_weight=float(o["w_bc"]),
    )  # fmt: skip
    method.check()
    return method


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient on both stored views with the stored noise, the student in the file's mode."""
    method = pretraining_method(golden.config)
    rules = pretraining_rules(method)
    mode = golden.meta.get("student_mode", "eval")
    if mode not in ("eval", "train"):
        raise UserError(f"student_mode is {mode!r}; it says whether the student ran in 'eval' or 'train' mode.")
    noise, views = jnp.asarray(golden.input("noise")), {"image": "imgs1", "image_2": "imgs2"}
    batch = {k: jnp.asarray(golden.channels_last(v, method.batch_spec[k].shape)) for k, v in views.items()}
    params, stats = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))
    template = _tree(params, stats)
    teacher = method.start_ema(*_split(import_weights(rules, _teacher_weights(golden), template)[0]))

    @jax.jit
    def both(params: dict[str, Any], stats: dict[str, Any]) -> Any:
        ctx = Context(jax.random.key(0), train=mode == "train", given={"mask": noise})
        rest = {"stats": stats, "ema": teacher, "frozen": {}}
        return jax.value_and_grad(lambda p: method.loss(p, rest, batch, ctx), has_aux=True)(params)

    def run(weights: dict[str, Any]) -> dict[str, Any]:
        (value, aux), gradient = both(*_split(weights))
        seen = aux.seen
        return {
            "latent1": seen["latent"],
            "latent2": seen["latent_2"],
            "mask1": seen["hidden"].astype(jnp.float32),
            "mask2": seen["hidden_2"].astype(jnp.float32),
            "ids_restore": seen["restore_ids"],
            "pred": seen["pred"],
            "mae_loss": aux.metrics["mae"],
            "student_q1": seen["q"],
            "student_q2": seen["q_2"],
            "teacher_q1": seen["z"],
            "teacher_q2": seen["z_2"],
            "bc_loss": aux.metrics["bc"],
            "loss": value,
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, template)


def _teacher_weights(golden: Golden) -> dict[str, Any]:
    """The teacher's state dict: the weight rule with the file's second seed, and the same fixed tables."""
    if "teacher_seed" not in golden.meta:
        raise UserError("The file's meta lacks teacher_seed, from which the teacher's weights follow.")
    fixed, seed = golden.meta.get("fixed", ()), int(golden.meta["teacher_seed"])
    return {
        name: weight if name in fixed else rule_weight(name, weight.shape, seed)
        for name, weight in golden.weights.items()
    }


def _tree(params: dict[str, Any], stats: dict[str, Any]) -> dict[str, Any]:
    return params | ({"stats": stats} if stats else {})


def _split(weights: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, stats) of one imported tree, as jax arrays."""
    arrays = jax.tree.map(jnp.asarray, dict(weights))
    stats = arrays.pop("stats", {})
    return arrays, stats


CASES = {"MaskedAutoencoderViT_LUT": prepare_pretraining}
