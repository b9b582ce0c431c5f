"""UCSC-VLAA/DMAE: student and frozen teacher, both MAE's class, and the heads between them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.mae import INERT, autoencoder_rules
from mae_jax.interop.names import Constant, Rule, Rules, Unused
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared, gradient_norms
from mae_jax.methods.dmae import DMAE
from mae_jax.nets.vit import sizes

HEADS: dict[Any, Any] = {"fc-1layer": "linear", "mlp-1layer": "mlp", "None": "none", None: "none"}
SIZES = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "embed_dim": 1024, "depth": 24, "num_heads": 16,
    "decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16, "mlp_ratio": None, "norm_pix_loss": None,
    "norm_eps": None,
}  # fmt: skip


def rules(method: DMAE) -> Rules:
    """Name map of a published student: MAE's names, and its heads'."""
    number, mine = r"aligned_feature_projection_heads.{i:\d+}", "heads/{i}/0"
    heads = parts.linear(number, f"{mine}/proj") if method.head == "linear" else [
        *parts.linear(f"{number}.fc1", f"{mine}/fc"), *parts.linear(f"{number}.fc2", f"{mine}/proj")
    ]  # fmt: skip
    return [*autoencoder_rules(method.net), *heads]


def both_rules(method: DMAE) -> Rules:
    """Name map of a golden file: "student." and "teacher." in front, as in our tree."""
    unread = [] if method.full_teacher else [Unused(r"teacher.{rest:.*}", "above the last aligned block")]
    return [
        *_under("student", rules(method)),
        *_under("teacher", autoencoder_rules(method.teacher)),
        *unread,
    ]


def _under(prefix: str, mapped: Rules) -> list[Rule | Constant | Unused]:
    """The map with a prefix before every name on both sides."""
    found: list[Rule | Constant | Unused] = []
    for rule in mapped:
        if isinstance(rule, Constant):
            found.append(Constant(f"{prefix}.{rule.theirs}", rule.value, rule.reason, rule.tolerance))
        elif isinstance(rule, Unused):
            found.append(Unused(f"{prefix}.{rule.theirs}", rule.reason))
        else:
            theirs = tuple(f"{prefix}.{name}" for name in rule.sources)
            single = isinstance(rule.theirs, str)
            found.append(Rule(theirs[0] if single else theirs, f"{prefix}/{rule.ours}", rule.transform))
    return found


def method_of(config: Mapping[str, Any]) -> DMAE:
    """Our method from a file's arguments: shared ones, and those of either network; the teacher runs whole."""
    known = {
        "student": REQUIRED, "teacher": REQUIRED, "mask_ratio": 0.75, "mlp_ratio": 4.0, "norm_eps": 1e-6,
        "norm_pix_loss": False, "aligned_feature_projection_mode": "fc-1layer", "embedding_distillation_func": "L1",
        "aligned_feature_projection_dim": None,
    }  # fmt: skip
    only: dict[str, tuple[Any, ...]] = {"target_sum_weights": (None,), "reconstruction_target": ("original_img",),
                                        "target": ("original_img",)}  # fmt: skip
    o = options(config, known, what="DMAE's MaskedAutoencoderViT", only=only, inert=INERT)
    student, teacher = (
        options(o[who], SIZES | {"aligned_blks_indices": ()}, what=f"DMAE's {who}", inert=INERT)
        for who in ("student", "teacher")
    )
    for key in ("img_size", "patch_size", "in_chans"):
        if student[key] != teacher[key]:
            raise UserError(f"DMAE's student and teacher see the same patches, but {key} is {student[key]} and "
                            f"{teacher[key]}.")  # fmt: skip
    head, distance = o["aligned_feature_projection_mode"], o["embedding_distillation_func"]
    if head not in HEADS or distance not in ("L1", "L2"):
        raise UserError(
            f"DMAE with aligned_feature_projection_mode={head!r} and embedding_distillation_func={distance!r} has no "
            f"counterpart here: the modes are fc-1layer, mlp-1layer and None (the authors' mlp-2layer does not run), "
            f"the distances L1 and L2."
        )
    image_size: Any
    patch: Any
    image_size, patch = (
        sizes(x if isinstance(x, int) else tuple(x)) for x in (student["img_size"], student["patch_size"])
    )
    own = lambda net, key: o[key] if net[key] is None else net[key]
    eps = {float(own(net, "norm_eps")) for net in (student, teacher)}
    if len(eps) > 1:
        raise UserError(f"DMAE's student and teacher have one norm_eps here, not {sorted(eps)}.")
    pairs = tuple(zip(student["aligned_blks_indices"] or (), teacher["aligned_blks_indices"] or (), strict=True))
    method = DMAE(
        image_size=image_size, patch=patch, channels=student["in_chans"], dim=student["embed_dim"],
        depth=student["depth"], heads=student["num_heads"], mlp_ratio=float(own(student, "mlp_ratio")),
        decoder_dim=student["decoder_embed_dim"], decoder_depth=student["decoder_depth"],
        decoder_heads=student["decoder_num_heads"], mask_ratio=float(o["mask_ratio"]),
        norm_pix=bool(own(student, "norm_pix_loss")), norm_eps=eps.pop(), pairs=pairs, head=HEADS[head],
        distance=distance.lower(), teacher_dim=teacher["embed_dim"], teacher_depth=teacher["depth"],
        teacher_heads=teacher["num_heads"], teacher_mlp_ratio=float(own(teacher, "mlp_ratio")), full_teacher=True,
        teacher_decoder_dim=teacher["decoder_embed_dim"], teacher_decoder_depth=teacher["decoder_depth"],
        teacher_decoder_heads=teacher["decoder_num_heads"],
    )  # fmt: skip
    method.check()
    return method


def prepare(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient by the student's parameters, under the stored noise."""
    method = method_of(golden.config)
    image = jnp.asarray(golden.channels_last("imgs", method.batch_spec["image"].shape))
    noise, named = jnp.asarray(golden.input("noise")), both_rules(method)
    student, _ = jax.eval_shape(method.init, jax.random.key(0), {"image": image})

    def loss(params: dict[str, Any], teacher: dict[str, Any]) -> tuple[jax.Array, tuple[dict[str, Any], Any]]:
        context = Context(jax.random.key(0), given={"mask": noise})
        rest = {"stats": {}, "ema": {}, "frozen": {"teacher": teacher}}
        value, aux = method.loss(params, rest, {"image": image}, context)
        return value, (aux.seen, aux.metrics)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, (seen, metrics)), gradient = step(params["student"], params["teacher"])
        blocks = {name: x for name, x in seen.items() if name.startswith(("student_block_", "teacher_block_"))}
        return {
            "mask": seen["hidden"].astype(jnp.float32),
            "ids_keep": seen["keep_ids"],
            "ids_restore": seen["restore_ids"],
            "pred": seen["pred"],
            "latent": seen["latent"],
            "teacher_pred": seen.get("teacher_pred"),
            "loss_rec": metrics["reconstruction"],
            "loss": value,
            **blocks,
            **{f"loss_align_block{i}": seen[f"alignment_{k}"] for k, (i, _) in enumerate(method.pairs)},
            **gradient_norms(named, {"student": gradient}),
        }

    return Prepared(run, named, {"student": student, "teacher": method.teacher.shapes()})


CASES = {"MaskedAutoencoderViT (student + frozen teacher)": prepare}
