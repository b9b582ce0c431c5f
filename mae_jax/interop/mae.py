"""facebookresearch/mae: the pretraining model, the classifier, and the functions around them.

Names are those of the official state dicts (and of timm's ViT); weights on their side are torch's, images
NCHW.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.augment import mixup
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Constant, Rule, Rules, Unused, their_names
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared, channels_first, gradient_norms
from mae_jax.losses.cross_entropy import cross_entropy, soft_cross_entropy
from mae_jax.methods.mae import MAE
from mae_jax.nets.autoencoder import Autoencoder
from mae_jax.nets.block import Transformer
from mae_jax.nets.vit import Classifier, sizes
from mae_jax.tokens.grid import patchify
from mae_jax.tokens.positions import interpolate, sincos, with_prefix
from mae_jax.train.optimizers import FINETUNE_DECAY, decay_multipliers, lars, layer_scales
from mae_jax.train.schedules import warmup_cosine

RECOMPUTED = "fixed sine-cosine table: recomputed, and equal to ours"

# Constructor arguments that change nothing in eval mode, or only the initialisation.
INERT = ("drop_rate", "attn_drop_rate", "drop_path_rate", "pos_drop_rate", "proj_drop_rate", "weight_init")


# The pretraining model ----------------------------------------------------------------------------


def pretraining_rules(method: MAE) -> Rules:
    """Name map of `MaskedAutoencoderViT` (released "full" and "visualize" files hold the same names)."""
    return autoencoder_rules(method.net)


def autoencoder_rules(net: Autoencoder) -> Rules:
    """The same of a network that may lack the decoder, the last norm or the upper blocks: those are left out."""
    encoder, first = net.encoder, net.encoder.shape.depth
    absent = [] if encoder.final_norm else [rf"blocks.{{i:{_from(first)}}}.{{rest:.*}}", "norm.{rest:weight|bias}"]
    decoder: list[Rule | Constant | Unused] = []
    if net.decoder is None:
        absent += [r"decoder_{rest:.*}", "mask_token"]
    else:
        decoder = [
            Constant("decoder_pos_embed", _table(net.decoder.shape.dim, net.grid), RECOMPUTED),
            *parts.linear("decoder_embed", "decoder/embed"),
            Rule("mask_token", "decoder/mask_token"),
            *parts.blocks("decoder_blocks", "decoder/blocks"),
            *parts.norm("decoder_norm", "decoder/norm"),
            *parts.linear("decoder_pred", "decoder/pred"),
        ]
    return [
        *(Unused(names, "above the last block that is read") for names in absent),
        Constant("pos_embed", _table(encoder.shape.dim, net.grid), RECOMPUTED),
        *encoder_rules(net.channels, encoder.patch),
        *decoder,
    ]


def _from(first: int) -> str:
    """A regular expression for numbers from `first` to 999."""
    return "|".join(str(i) for i in range(999, first - 1, -1))


def encoder_rules(channels: int, patch: tuple[int, ...]) -> list[Rule]:
    """Name map of the ViT that pretraining and classifier share, without its positions."""
    return [
        Rule("cls_token", "encoder/class_token"),
        *parts.patch_embed("patch_embed.proj", "encoder/patch_embed", channels, patch),
        *parts.blocks("blocks", "encoder/blocks"),
        *parts.norm("norm", "encoder/norm"),
    ]


def pretraining_method(config: Mapping[str, Any]) -> MAE:
    """Our method from the arguments of `MaskedAutoencoderViT` (and `mask_ratio` of its forward)."""
    known = {
        "img_size": 224, "patch_size": 16, "in_chans": 3, "embed_dim": 1024, "depth": 24, "num_heads": 16,
        "decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16, "mlp_ratio": 4.0,
        "norm_pix_loss": False, "norm_eps": 1e-6, "mask_ratio": 0.75,
    }  # fmt: skip
    only: dict[str, tuple[Any, ...]] = {"qkv_bias": (True,), "qk_scale": (None,)}
    o = options(config, known, what="MaskedAutoencoderViT", only=only, inert=INERT)
    method = MAE(
        image_size=_pair(o["img_size"]), patch=_pair(o["patch_size"]), channels=o["in_chans"],
        dim=o["embed_dim"], depth=o["depth"], heads=o["num_heads"], mlp_ratio=float(o["mlp_ratio"]),
        decoder_dim=o["decoder_embed_dim"], decoder_depth=o["decoder_depth"],
        decoder_heads=o["decoder_num_heads"], norm_pix=o["norm_pix_loss"],
        norm_eps=float(o["norm_eps"]), mask_ratio=float(o["mask_ratio"]),
    )  # fmt: skip
    method.check()
    return method


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` and its gradient on the stored images, the stored noise in place of the mask's draw."""
    method = pretraining_method(golden.config)
    rules = pretraining_rules(method)
    image = jnp.asarray(golden.channels_last("imgs", (*sizes(method.image_size), method.channels)))
    noise = jnp.asarray(golden.input("noise"))
    template, _ = jax.eval_shape(lambda image: method.init(jax.random.key(0), {"image": image}), image)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        context = Context(jax.random.key(0), given={"mask": noise})
        value, aux = method.loss(params, {"stats": {}, "ema": {}, "frozen": {}}, {"image": image}, context)
        return value, aux.seen

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, seen), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {
            "latent": seen["latent"],
            "mask": seen["hidden"].astype(jnp.float32),
            "ids_restore": seen["restore_ids"],
            "pred": seen["pred"],
            "loss": value,
            "target_patches": patchify(image, sizes(method.patch))[:1],
            **gradient_norms(rules, gradient),
        }

    return Prepared(run, rules, template)


# The classifier -----------------------------------------------------------------------------------


def classifier_rules(channels: int, patch: tuple[int, ...]) -> Rules:
    """Name map of `models_vit.VisionTransformer`, with either pooling."""
    return [
        *encoder_rules(channels, patch),
        Rule("pos_embed", "encoder/pos_embed"),
        *parts.norm("fc_norm", "fc_norm"),
        *parts.linear("head", "head"),
    ]


def classifier_net(config: Mapping[str, Any], *, qkv_bias: bool = True) -> tuple[Classifier, int]:
    """Our network and its input channels from the arguments of `models_vit.VisionTransformer`.

    `qkv_bias` is the default where the arguments do not say.
    """
    known = {
        "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dim": 768, "depth": 12,
        "num_heads": 12, "mlp_ratio": 4.0, "qkv_bias": qkv_bias, "qk_scale": None, "norm_eps": 1e-6,
        "global_pool": False,
    }  # fmt: skip
    only: dict[str, tuple[Any, ...]] = {"representation_size": (None, 0, False), "hybrid_backbone": (None,)}
    o = options(config, known, what="models_vit.VisionTransformer", only=only, inert=INERT)
    if o["num_classes"] < 1:
        raise UserError(f"models_vit.VisionTransformer with num_classes={o['num_classes']} has no head to compare.")
    shape = Transformer(
        o["embed_dim"], o["depth"], o["num_heads"], float(o["mlp_ratio"]), o["qkv_bias"], o["qk_scale"] or None,
        float(o["norm_eps"]),
    )  # fmt: skip
    net = Classifier(
        shape, classes=o["num_classes"], size=_pair(o["img_size"]), patch=_pair(o["patch_size"]),
        pool="mean" if o["global_pool"] else "class",
    )  # fmt: skip
    return net, o["in_chans"]


def prepare_classifier(golden: Golden) -> Prepared:
    """Features, logits, mean cross entropy and its gradient in eval mode; and meta's layer-decay groups."""
    net, channels = classifier_net(golden.config, qkv_bias="blocks.0.attn.qkv.bias" in golden.weights)
    rules = classifier_rules(channels, net.patch)
    image = jnp.asarray(golden.channels_last("imgs", (*net.size, channels)))
    labels = jnp.asarray(golden.input("labels"))
    template = jax.eval_shape(lambda image: net.init(jax.random.key(0), image)["params"], image)
    references, groups = _decay_groups(golden, rules, template)

    def loss(params: dict[str, Any]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        outputs: Any = net.apply({"params": params}, image)
        logits, features = outputs
        return cross_entropy(logits, labels).mean(), (logits, features)

    def run(params: dict[str, Any]) -> dict[str, Any]:
        (value, (logits, features)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {
            "features": features,
            "logits": logits,
            "loss": value,
            **gradient_norms(rules, gradient),
            **groups,
        }

    return Prepared(run, rules, template, references)


def _decay_groups(
    golden: Golden, rules: Rules, template: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """({output: theirs}, {output: ours}) of meta's learning-rate scales and weight decays."""
    references: dict[str, np.ndarray] = {}
    ours: dict[str, np.ndarray] = {}
    if "lr_scale" in golden.meta:
        scales = layer_scales(template, float(golden.meta.get("layer_decay", 0.75)))
        references["meta/lr_scale"], ours["meta/lr_scale"] = _side_by_side(golden.meta["lr_scale"], rules, scales)
    if "weight_decay" in golden.meta:
        theirs = golden.meta["weight_decay"]
        base = max(theirs.values(), default=0.0)  # the file does not say it apart
        decays = {path: base * m for path, m in decay_multipliers(template, FINETUNE_DECAY).items()}
        references["meta/weight_decay"], ours["meta/weight_decay"] = _side_by_side(theirs, rules, decays)
    return references, ours


def _side_by_side(
    theirs: Mapping[str, float], rules: Rules, by_path: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """(theirs, ours) over all names that either has; nan, which never passes, where one lacks a name."""
    ours = {name: value for path, value in by_path.items() for name in their_names(rules, path)}
    names = sorted({*theirs, *ours})
    return np.array([theirs.get(n, np.nan) for n in names]), np.array([ours.get(n, np.nan) for n in names])


# Functions and optimizers -------------------------------------------------------------------------


def prepare_positions(golden: Golden) -> Prepared:
    """The fixed table, and the resampling of a given one to two other grids."""
    known = {"embed_dim": REQUIRED, "grid": REQUIRED, "up": None, "down": None, "cls_token": True}
    o = options(golden.config, known, what="util/pos_embed.py")
    grid = _pair(o["grid"])

    def run(params: dict[str, Any]) -> dict[str, Any]:
        outputs: dict[str, Any] = {"sincos": with_prefix(sincos(o["embed_dim"], grid), int(o["cls_token"]))}
        for name in ("up", "down"):
            if o[name] is not None:
                table = jnp.asarray(golden.input("pos_embed"))
                prefix = table.shape[-2] - grid[0] * grid[1]
                outputs[f"interp_{name}"] = interpolate(table, grid, _pair(o[name]), prefix)
        return outputs

    return Prepared(run)


def prepare_optimization(golden: Golden) -> Prepared:
    """LARS steps with given gradients from given parameters, and the schedule at given fractional epochs."""
    sections = options(golden.config, {"lars": None, "schedule": None}, what="The optimizer's file")

    def run(params: dict[str, Any]) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        if sections["lars"] is not None:
            outputs |= _lars_steps(golden, sections["lars"])
        if sections["schedule"] is not None:
            known = {"lr": REQUIRED, "warmup_epochs": REQUIRED, "epochs": REQUIRED, "min_lr": 0.0}
            o = options(sections["schedule"], known, what="util/lr_sched.py")
            rate = warmup_cosine(*(float(o[name]) for name in ("lr", "warmup_epochs", "epochs", "min_lr")))
            outputs["lr"] = np.array([rate(epoch) for epoch in golden.input("epochs").tolist()])
        return outputs

    return Prepared(run)


def _lars_steps(golden: Golden, arguments: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{"p0_step1": parameter 0 after step 1, ...} from the inputs p0, p1, ... and grads0 [steps, ...], ..."""
    known = {"lr": REQUIRED, "momentum": 0.9, "trust_coefficient": 0.001, "weight_decay": 0.0}
    o = options(arguments, known, what="util/lars.py LARS")
    optimizer = lars(*(float(o[name]) for name in ("momentum", "trust_coefficient", "weight_decay")))
    numbers = sorted(name.removeprefix("grads") for name in golden.inputs if name.startswith("grads"))
    params = {i: jnp.asarray(golden.input(f"p{i}")) for i in numbers}
    gradients = {i: jnp.asarray(golden.input(f"grads{i}")) for i in numbers}
    state: Any = optimizer.init(params)
    outputs: dict[str, jax.Array] = {}
    for step in range(min((len(g) for g in gradients.values()), default=0)):
        direction, state = optimizer.update({i: g[step] for i, g in gradients.items()}, state, params)
        params = jax.tree.map(lambda p, d: p - o["lr"] * d, params, direction)
        outputs |= {f"p{i}_step{step + 1}": p for i, p in params.items()}
    return outputs


def prepare_mixup(golden: Golden) -> Prepared:
    """Mixup with the stored lam, cutmix with the stored box, their soft targets and the logits' loss."""
    known = {"num_classes": 1000, "smoothing": None, "label_smoothing": 0.1}
    only = {"mode": ("batch",), "correct_lam": (True,), "cutmix_minmax": (None,)}
    # These shape the draws, and the draws are stored.
    inert = ("mixup_alpha", "cutmix_alpha", "prob", "switch_prob")
    o = options(golden.config, known, what="timm.data.Mixup", only=only, inert=inert)
    smoothing = float(o["label_smoothing"] if o["smoothing"] is None else o["smoothing"])
    images, labels = jnp.asarray(golden.channels_last("imgs")), jnp.asarray(golden.input("labels"))
    logits = jnp.asarray(golden.input("logits"))

    def run(params: dict[str, Any]) -> dict[str, Any]:
        lam = float(golden.input("lam"))
        box = mixup.Box(*(int(edge) for edge in golden.input("bbox")))
        cut_lam = mixup.box_lam(box, (images.shape[1], images.shape[2]))
        mixed = mixup.soft_targets(labels, o["num_classes"], smoothing, lam)
        cut = mixup.soft_targets(labels, o["num_classes"], smoothing, cut_lam)
        return {
            "mixup_imgs": channels_first(mixup.mixup(images, lam)),
            "mixup_target": mixed,
            "mixup_loss": soft_cross_entropy(logits, mixed).mean(),
            "cutmix_imgs": channels_first(mixup.cutmix(images, box)),
            "cutmix_lam": cut_lam,
            "cutmix_target": cut,
            "cutmix_loss": soft_cross_entropy(logits, cut).mean(),
        }

    return Prepared(run)


CASES = {
    "MaskedAutoencoderViT": prepare_pretraining,
    "models_vit.VisionTransformer": prepare_classifier,
    "util/pos_embed.py functions": prepare_positions,
    "util/lars.py LARS, util/lr_sched.py": prepare_optimization,
    "timm.data.Mixup, batch mode": prepare_mixup,
}


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A size that the file gives once or as [rows, columns]."""
    rows, columns = sizes(value if isinstance(value, int) else tuple(value))
    return rows, columns


def _table(dim: int, grid: tuple[int, ...]) -> np.ndarray:
    """The official fixed table (1, 1 + n, dim), a zero class row first."""
    return with_prefix(sincos(dim, grid), 1)[None]
