"""keyu-tian/SparK: the pretraining model over ConvNeXt or ResNet, the dense ConvNeXt, and its optimizer.

Names are those of the official state dicts: of "..._withdecoder_1kpretrained_spark_style.pth" (`pretraining_rules`),
and of "..._1kpretrained_timm_style.pth", which is the encoder alone (`encoder_rules` without a prefix).
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.ramps import cosine
from mae_jax.interop import blocks as parts
from mae_jax.interop.golden import Golden
from mae_jax.interop.names import Rule, Rules, Transform, Unused, export_weights
from mae_jax.interop.options import REQUIRED, options
from mae_jax.interop.parity import Prepared, channels_first, gradient_norms
from mae_jax.losses.cross_entropy import cross_entropy
from mae_jax.methods.spark import SparK
from mae_jax.nets.convnet import ConvNet
from mae_jax.nets.convnext import Classifier
from mae_jax.tokens.grid import unpatchify
from mae_jax.train.lamb import lamb
from mae_jax.train.schedules import warmup_cosine

# (out, in, rows, columns) <-> (rows, columns, in, out)
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
# (in, out, rows, columns) <-> (rows, columns, in, out): torch's transposed convolution reads its kernel backwards.
CONV_TRANSPOSE = Transform(lambda x: x.transpose(2, 3, 0, 1)[::-1, ::-1], lambda x: x[::-1, ::-1].transpose(2, 3, 0, 1))
CHANNELS = Transform(lambda x: x.transpose(0, 2, 3, 1), lambda x: x.transpose(0, 3, 1, 2))

COUNTERS = Unused(r"{module:.+}.num_batches_tracked", "the running statistics have a constant momentum")
BUFFERS = Unused("{name:imn_m|imn_s|norm_black}", "deprecated buffers, read by nothing")


# Name maps: our trees are {"params": ..., "stats": ...} --------------------------------------------------------------


def pretraining_rules(shape: ConvNet) -> Rules:
    """Name map of `SparK` over an encoder."""
    rules = [*encoder_rules(shape, "sparse_encoder.sp_cnn."), COUNTERS, BUFFERS]
    for i in range(len(shape.dims)):
        level = f"densify/level{i}"
        rules += [
            *_norm(f"densify_norms.{i}", f"{level}/norm"),
            Rule(f"mask_tokens.{i}", f"params/{level}/mask_token", CHANNELS),
            *_conv(f"densify_projs.{i}", f"{level}/proj"),
        ]
    for i in range(int(math.log2(shape.stride))):
        theirs, ours = f"dense_decoder.dec.{i}", f"decoder/block{i}"
        rules += [
            *_conv(f"{theirs}.up_sample", f"{ours}/up", CONV_TRANSPOSE),
            *_conv(f"{theirs}.conv.0", f"{ours}/conv1"),
            *_norm(f"{theirs}.conv.1", f"{ours}/bn1"),
            *_conv(f"{theirs}.conv.3", f"{ours}/conv2"),
            *_norm(f"{theirs}.conv.4", f"{ours}/bn2"),
        ]
    return [*rules, *_conv("dense_decoder.proj", "decoder/proj")]


def encoder_rules(shape: ConvNet, prefix: str = "") -> list[Rule | Unused]:
    """Name map of the encoder: the dense network's own names (timm's ResNet, the authors' ConvNeXt)."""
    return (_convnext_rules if shape.arch == "convnext" else _resnet_rules)(shape, prefix)


def _convnext_rules(shape: ConvNet, prefix: str) -> list[Rule | Unused]:
    rules: list[Rule | Unused] = []
    for i in range(len(shape.dims)):
        down, conv = f"{prefix}downsample_layers.{i}", min(i, 1)  # the stem has its norm behind the convolution
        theirs, ours = f"{prefix}stages.{i}.{{j:\\d+}}", f"encoder/stage{i}_blocks/{{j}}"
        rules += [
            *_conv(f"{down}.{conv}", f"encoder/stage{i}_conv"),
            *_norm(f"{down}.{1 - conv}", f"encoder/stage{i}_norm"),
            *_conv(f"{theirs}.dwconv", f"{ours}/dwconv"),
            *_norm(f"{theirs}.norm", f"{ours}/norm"),
            *parts.linear(f"{theirs}.{{layer:pwconv[12]}}", f"params/{ours}/{{layer}}"),
            Rule(f"{theirs}.gamma", f"params/{ours}/gamma"),
        ]
    return rules


def _resnet_rules(shape: ConvNet, prefix: str) -> list[Rule | Unused]:
    rules = [*_conv(f"{prefix}conv1", "encoder/conv1"), *_norm(f"{prefix}bn1", "encoder/bn1")]
    for i in range(len(shape.dims)):
        theirs, ours = f"{prefix}layer{i + 1}.{{j:\\d+}}", f"encoder/stage{i}_blocks/{{j}}"
        rules += [
            *_conv(f"{theirs}.{{layer:conv[123]}}", f"{ours}/{{layer}}"),
            *_norm(f"{theirs}.{{layer:bn[123]}}", f"{ours}/{{layer}}"),
            *_conv(f"{theirs}.downsample.0", f"{ours}/shortcut"),
            *_norm(f"{theirs}.downsample.1", f"{ours}/shortcut_bn"),
        ]
    return rules


def _conv(theirs: str, ours: str, kernel: Transform = CONV) -> list[Rule | Unused]:
    return [Rule(f"{theirs}.weight", f"params/{ours}/kernel", kernel), Rule(f"{theirs}.bias", f"params/{ours}/bias")]


def _norm(theirs: str, ours: str) -> list[Rule | Unused]:
    """A layer norm, or a batch norm with its statistics."""
    statistics = [Rule(f"{theirs}.running_{what}", f"stats/{ours}/{what}") for what in ("mean", "var")]
    return [*parts.norm(theirs, f"params/{ours}"), *statistics]


# The pretraining model -----------------------------------------------------------------------------------------------

# Gradients through batch norms of a batch's statistics, in torch's float32: up to 0.5 % from its own float64
# (docs/methods/spark.md). Held to 1e-5 by files recorded in float64 (tests/golden/spark/resnet*_float64.npz).
ROUNDED = 5e-3

EXPANSION = {"bottleneck": 4, "basic": 1}  # channels of a ResNet stage's output over its inner ones


def pretraining_method(config: Mapping[str, Any]) -> SparK:
    """Our method from the golden file's arguments: those of `SparK`, of its encoder and of `LightDecoder`."""
    arch = config.get("arch")
    own: dict[str, dict[str, Any]] = {
        "convnext": {"depths": REQUIRED, "dims": REQUIRED},
        "resnet": {"layers": REQUIRED, "channels": REQUIRED, "block": "bottleneck"},
    }
    if arch not in own:
        raise UserError(f"The encoder arch={arch!r} has no counterpart here; known are: {', '.join(own)}.")
    known = {"arch": REQUIRED, "input_size": REQUIRED, "dec_width": 768, "mask_ratio": 0.6} | own[arch]
    norm = "ln" if arch == "convnext" else "bn"
    only: dict[str, tuple[Any, ...]] = {"densify_norm": (norm,), "drop_path_rate": (0, 0.0)}
    o = options(config, known, what="SparK", only=only, inert=("sbn", "layer_scale_init_value"))
    if arch == "convnext":
        encoder: dict[str, Any] = dict(dims=tuple(o["dims"]), depths=tuple(o["depths"]))
    elif o["block"] in EXPANSION:
        dims = tuple(EXPANSION[o["block"]] * c for c in o["channels"])
        encoder = dict(dims=dims, depths=tuple(o["layers"]), block=o["block"])
    else:
        raise UserError(
            f"A ResNet of {o['block']!r} blocks has no counterpart here; known are: {', '.join(EXPANSION)}."
        )
    method = SparK(
        arch=arch, image_size=o["input_size"], decoder_dim=o["dec_width"], mask_ratio=float(o["mask_ratio"]),
        drop_path=0.0, **encoder,
    )  # fmt: skip
    method.check()
    return method


def prepare_pretraining(golden: Golden) -> Prepared:
    """`Method.loss` with running and with batch statistics, gradients, and the statistics afterwards."""
    method = pretraining_method(golden.config)
    rules = pretraining_rules(method.shape)
    image = jnp.asarray(golden.channels_last("image", method.batch_spec["image"].shape))
    noise = jnp.asarray(golden.input("noise"))
    params, stats = jax.eval_shape(lambda image: method.init(jax.random.key(0), {"image": image}), image)
    stale = _stale(golden)

    @jax.jit
    def both(weights: dict[str, Any]) -> list[Any]:
        def loss(params: Any, train: bool) -> tuple[jax.Array, Any]:
            ctx = Context(jax.random.key(0), train=train, given={"mask": noise})
            rest = {"stats": weights.get("stats", {}), "ema": {}, "frozen": {}}
            return method.loss(params, rest, {"image": image}, ctx)

        return [jax.value_and_grad(loss, has_aux=True)(weights["params"], train) for train in (False, True)]

    def run(weights: dict[str, Any]) -> dict[str, Any]:
        ((value, aux), gradient), ((train_value, train_aux), train_gradient) = both(weights)
        seen, n = aux.seen, len(method.dims)
        active = ~seen["hidden"].reshape(-1, 1, *method.grid)
        before = export_weights(rules, {"stats": weights.get("stats", {})})
        statistics = export_weights(rules, {"stats": train_aux.stats}) | {name: before[name] for name in stale}
        return {
            "loss": value,
            "rec_s4": _reconstruction(method, seen["pred"]),
            **{f"feat{n - 1 - i}": channels_first(seen[f"level{i}"]) for i in range(n)},
            **{f"to_dec{i}": channels_first(seen[f"dense{i}"]) for i in range(n)},
            "active": active,
            **gradient_norms(rules, {"params": gradient}),
            "loss_train": train_value,
            "rec_s4_train": _reconstruction(method, train_aux.seen["pred"]),
            **gradient_norms(rules, {"params": train_gradient}, "grad_norm_train"),
            **{f"after_train/{name}": value for name, value in statistics.items()},
        }

    notes = {f"after_train/{name}": "recorded before the forward: compared with ours before it" for name in stale}
    single = method.arch == "resnet" and "float64" not in golden.meta.get("notes", "")
    rounded = [name for name in golden.outputs if single and name.startswith("grad_norm_train/")]
    notes |= dict.fromkeys(rounded, f"tolerance {ROUNDED:g}: torch's float32 is that far from its own float64 here")
    tolerances = dict.fromkeys(rounded, ROUNDED)
    return Prepared(run, rules, {"params": params, "stats": stats}, notes=notes, tolerances=tolerances)


def _stale(golden: Golden) -> list[str]:
    """Statistics "after" a training forward that equal the loaded ones to the bit.

    The authors' code mixes a tenth of the batch's into them; these were read from memory that was loaded again.
    """
    after = {name.removeprefix("after_train/"): x for name, x in golden.outputs.items() if name.startswith("after_")}
    return [name for name, x in after.items() if np.array_equal(x, golden.weights[name])]


def _reconstruction(method: SparK, pred: jax.Array) -> jax.Array:
    """The decoder's image, every fourth pixel."""
    return channels_first(unpatchify(pred, method.grid, method.patch))[:, :, ::4, ::4]


# The classifier ------------------------------------------------------------------------------------------------------


def prepare_classifier(golden: Golden) -> Prepared:
    """Logits, mean cross entropy and its gradient of the dense ConvNeXt."""
    known = {"depths": REQUIRED, "dims": REQUIRED, "num_classes": 1000, "img": REQUIRED, "in_chans": 3}
    inert = ("drop_path_rate", "layer_scale_init_value", "head_init_scale")  # nothing in eval mode, or initialisation
    o = options(golden.config, known, what="ConvNeXt", inert=inert)
    shape = ConvNet("convnext", tuple(o["dims"]), tuple(o["depths"]))
    net = Classifier(shape, o["num_classes"])
    image, labels = jnp.asarray(golden.channels_last("image")), jnp.asarray(golden.input("label"))
    if image.shape[1:] != (o["img"], o["img"], o["in_chans"]):
        raise UserError(f"The images are {image.shape[1:]}, but img and in_chans say {o['img']}, {o['in_chans']}.")
    rules = [*encoder_rules(shape), *parts.norm("norm", "params/norm"), *parts.linear("head", "params/head")]
    template = jax.eval_shape(lambda image: {"params": net.init(jax.random.key(0), image)["params"]}, image)

    @jax.jit
    def loss(weights: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        outputs: Any = net.apply(weights, image)
        return cross_entropy(outputs[0], labels).mean(), outputs[0]

    def run(weights: dict[str, Any]) -> dict[str, Any]:
        (value, logits), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
        return {"logits": logits, "loss": value, **gradient_norms(rules, {"params": gradient["params"]})}

    return Prepared(run, rules, template)


# The optimizer -------------------------------------------------------------------------------------------------------


def prepare_optimizer(golden: Golden) -> Prepared:
    """LAMB steps with the stored gradients, learning rate and weight decay following their schedules."""
    known = {
        "lr": REQUIRED, "wd": REQUIRED, "wde": REQUIRED, "wp_it": REQUIRED, "steps": REQUIRED, "betas": (0.9, 0.999),
        "eps": 1e-6, "max_grad_norm": 2.0, "bias_correction": True, "always_adapt": False,
    }  # fmt: skip
    only: dict[str, tuple[Any, ...]] = {"grad_averaging": (True,), "trust_clip": (False,)}
    o = options(
        golden.config, known, what="TheSameAsTimmLAMB", only=only, inert=("gscale",)
    )  # the gradients are stored
    peak, warmup, steps = float(o["lr"]), round(o["wp_it"]), int(o["steps"])
    rate = warmup_cosine(peak, warmup, steps, 0.001 * peak, start=0.005 * peak, last=1)
    decay = lambda step: cosine(float(o["wd"]), float(o["wde"]), step / max(steps - 1, 1))

    def run(weights: dict[str, Any]) -> dict[str, Any]:
        params = {name: jnp.asarray(w) for name, w in golden.weights.items()}
        b1, b2 = map(float, o["betas"])
        multipliers = {name: float(_decays(name, p)) for name, p in params.items()}
        flags = {key: o[key] for key in ("bias_correction", "always_adapt")}
        optimizer = optax.chain(
            optax.clip_by_global_norm(float(o["max_grad_norm"])),
            lamb(b1, b2, float(o["eps"]), decay, multipliers, **flags),
        )
        state = optimizer.init(params)
        outputs = {"schedule": np.array([[rate(t), decay(t)] for t in range(steps)])}
        for t in range(steps):
            gradients = {name: jnp.asarray(golden.input(f"grad{t}/{name}")) for name in params}
            direction, state = optimizer.update(gradients, state, params, step=t)
            params = jax.tree.map(lambda p, d, t=t: p - rate(t) * d, params, direction)
            outputs[f"global_grad_norm{t}"] = optax.tree.norm(gradients)
            outputs |= {f"param{t + 1}/{name}": p for name, p in params.items()}
        return outputs

    return Prepared(run, [Unused("{any:.+}", "read as they are")])


def _decays(name: str, parameter: jax.Array) -> bool:
    """get_param_groups with main.py's nowd_keys."""
    keys = ("cls_token", "pos_embed", "mask_token", "gamma")
    return parameter.ndim > 1 and not name.endswith(".bias") and not any(key in name for key in keys)


CASES = {
    "pretrain/spark.py SparK": prepare_pretraining,
    "downstream_imagenet/models/convnext_official.py ConvNeXt": prepare_classifier,
    "pretrain/utils/lamb.py TheSameAsTimmLAMB + pretrain/utils/lr_control.py lr_wd_annealing": prepare_optimizer,
}
