"""OpenDriveLab/maskalign: the pretraining model. Its teachers have files of their own (clip_vision_teacher and others).

The teacher's hidden states and last attention are stored inputs, so what is compared is masking, student, adaptor,
targets and loss.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.mae import encoder_rules
from mae_jax.interop.names import Constant, Rule, Rules, Unused
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.masking.select import invert
from mae_jax.methods.maskalign import MaskAlign
from mae_jax.nets.vit import sizes
from mae_jax.tokens.positions import sincos, with_prefix

# What our heads' layers are called in torch's Sequential, by head_type.
HEADS = {
    "linear": {"proj": ""},
    "norm_linear": {"norm": ".0", "proj": ".1"},
    "mlp": {"fc": ".0", "proj": ".2"},
    "mlp2": {"fc": ".0", "norm": ".1", "proj": ".2"},
}
INERT = ("drop_path_rate", "norm_pix_loss")  # eval mode; left over from MAE


def rules(method: MaskAlign) -> Rules:
    """Name map of `MaskedAutoencoderViT`. The released checkpoints hold the teacher too, which is dropped."""
    table = with_prefix(sincos(method.dim, method.grid), 1)[None]
    head = HEADS[method.head]
    number, mine = r"distill_heads.{i:\d+}", "heads/{i}"
    return [
        *encoder_rules(method.channels, sizes(method.patch)),
        Constant("pos_embed", table, "fixed sine-cosine table: recomputed, and equal to ours"),
        Rule("distill_weights", "mix"),
        *(rule for layer in ("fc", "proj") if layer in head
          for rule in parts.linear(number + head[layer], f"{mine}/{layer}")),
        *(parts.norm(f"{number}{head['norm']}", f"{mine}/norm") if "norm" in head else ()),
        Unused(r"{teacher:clip_model|dino_model}.{rest:.*}", "the frozen teacher, which has a file of its own"),
    ]  # fmt: skip


def method_of(config: Mapping[str, Any]) -> MaskAlign:
    """Our method from the arguments of `MaskedAutoencoderViT`; the teacher's sizes are those of its stored outputs."""
    known = {
        "img_size": 224, "patch_size": 16, "in_chans": 3, "embed_dim": 1024, "depth": 24, "num_heads": 16,
        "mlp_ratio": 4.0, "norm_eps": 1e-6, "mask_ratio": 0.75, "loss_weights": "mean", "mask_type": "random",
        "fusion_type": "simple", "target_norm": "none", "loss_type": "l2", "head_type": "linear",
        "teacher_depth": REQUIRED, "teacher_dim": REQUIRED,
    }  # fmt: skip
    o = options(config, known, what="MaskedAutoencoderViT", inert=(*INERT, "teacher_model"))
    size: Any
    patch: Any
    size, patch = (sizes(x if isinstance(x, int) else tuple(x)) for x in (o["img_size"], o["patch_size"]))
    method = MaskAlign(
        image_size=size, patch=patch, channels=o["in_chans"], dim=o["embed_dim"], depth=o["depth"],
        heads=o["num_heads"], mlp_ratio=float(o["mlp_ratio"]), norm_eps=float(o["norm_eps"]), drop_path=0.0,
        mask_ratio=float(o["mask_ratio"]), masking=o["mask_type"], teacher_dim=o["teacher_dim"],
        teacher_depth=o["teacher_depth"], teacher_heads=1, teacher_patch=patch, teacher_size=size,
        target_norm=o["target_norm"], distance=o["loss_type"], layer_weights=o["loss_weights"],
        fusion=o["fusion_type"], head=o["head_type"],
    )  # fmt: skip
    method.check()
    return method


def prepare(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient under the stored teacher and the stored order of the patches."""
    method = method_of(golden.config)
    image = jnp.asarray(golden.channels_last("imgs", method.batch_spec["image"].shape))
    given = {"teacher_hidden": jnp.asarray(golden.input("teacher_hidden"))}
    if method.masking == "attention":
        given["teacher_attention"] = jnp.asarray(golden.input("teacher_attn_last"))
        given["order"] = invert(jnp.asarray(golden.input("ids_shuffle"))).astype(jnp.float32)
    else:
        given["mask"] = jnp.asarray(golden.input("noise"))
    template, _ = jax.eval_shape(method.init, jax.random.key(0), {"image": image})

    def loss(params: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        context = Context(jax.random.key(0), given=given)
        value, aux = method.loss(params, {"stats": {}, "ema": {}, "frozen": {}}, {"image": image}, context)
        return value, aux.seen

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, seen), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        same = ("student_last", "teacher_last", "importance")
        return {
            "ids_keep": seen["keep_ids"],
            "loss": value,
            **{name: seen[name] for name in same if name in seen},
            **{f"hidden_{i}": x for i, x in enumerate(seen["blocks"])},
            **gradient_norms(rules(method), gradient),
        }

    return Prepared(run, rules(method), template)


CASES = {"MaskedAutoencoderViT": prepare}
