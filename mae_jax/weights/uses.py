"""What weights can be used for, in words, and refusals where they cannot: users' most frequent confusion."""

from typing import Any, Literal

from mae_jax.core.errors import UserError
from mae_jax.interop.vit_layouts import ORDERS
from mae_jax.weights import catalog, heads
from mae_jax.weights.store import Weights

Use = Literal["encode", "reconstruct", "loss", "classify"]

HOLDS = {
    "encoder": "the encoder alone (no decoder)",
    "pretraining": "encoder and decoder",
    "classifier": "the encoder and a classifier's head (no decoder)",
}


def check_use(weights: Weights, use: Use) -> None:
    """Raise UserError where these weights cannot do that; "loss" is that of pretraining."""
    name = weights.info.get("published") or weights.info.get("source") or "this file"
    if use == "classify" and weights.head is None:
        raise UserError(
            f"{name} holds {HOLDS[weights.kind]} and no classifier: it gives features (encode), on which a probe or "
            f"fine-tuning is trained (`mae_jax evaluate`)."
        )
    if use not in ("reconstruct", "loss"):
        return
    if weights.kind != "pretraining":
        what = "reconstruct" if use == "reconstruct" else "the pretraining loss"
        raise UserError(
            f"{name} holds {HOLDS[weights.kind]}, and {what} needs the decoder. Take {_with_decoder(weights)}; this "
            f"file is for encode, evaluate, fine-tuning and as train.init."
        )
    if weights.info.get("norm_pix", False) is None:
        raise UserError(
            f"{name} does not say whether its decoder predicts raw pixels or pixels normalised per patch, and {use} "
            f"needs to know. Say --config.method.norm_pix=True (mae_pretrain_*_full.pth, and what was trained with "
            f"--norm_pix_loss) or False (mae_visualize_*.pth), or convert with --norm-pix yes or no."
        )


def _with_decoder(weights: Weights) -> str:
    """Published files of the same size that have a decoder."""
    method = weights.config["method"]
    shape = method.get("dim"), method.get("depth"), method.get("patch")
    fits = [e for e in catalog.CATALOG.values() if e.kind == "pretraining" and (e.dim, e.depth, e.patch) == shape
            and e.file.endswith(".pth")]  # fmt: skip
    fits = fits or [e for e in catalog.CATALOG.values() if e.file == "mae_visualize_vit_base.pth"]
    pixels = {True: "normalised pixels", False: "raw pixels"}
    return " or ".join(f"{e.file} ({pixels[e.norm_pix]})" for e in fits if e.norm_pix is not None)


def describe(weights: Weights) -> str:
    """A few lines for people: what a file is, what it can be used for, what was left out or assumed."""
    info, method = weights.info, weights.config["method"]
    lines = [f"holds      {HOLDS[weights.kind]}" + (f", step {info['step']}" if info.get("step") else "")]
    if info.get("published"):
        by = " (by its name: no hash of it is published)" if info.get("known_by") == "name" else ""
        lines.append(f"is         {info['published']}{by}, {info['url']}")
    sizes = ", ".join(f"{key} {method[key]}" for key in SIZES if method.get(key) is not None)
    lines.append(f"network    {method['name']}: {sizes}")
    if info.get("positions"):
        lines.append(f"positions  {ORDERS[info['positions']]}")
    if weights.kind == "pretraining" and "norm_pix" in method:
        pixels = {True: "normalised per patch", False: "raw", None: "UNKNOWN: raw or normalised? (--norm-pix yes|no)"}
        lines.append(f"pixels     {pixels[info.get('norm_pix')]}")
    if weights.head is not None:
        head = info["head"]
        assumed = " (assumed: the file does not say; --pool)" if head.get("assumed") else ""
        classes = heads.count(weights.head)
        lines.append(f"head       {classes} classes, reads {POOLS[head['pool']]}{assumed}")
    augment = weights.config.get("augment", {})
    at = "spectrogram_" if "spectrogram_size" in method else ""
    if f"{at}mean" in augment:
        how = {"assumed": " (ASSUMED: the file does not say; --mean, --std)"}.get(info.get("colours", ""), "")
        mean, std = (x if isinstance(x, tuple | list) else (x,) for x in (augment[f"{at}mean"], augment[f"{at}std"]))
        lines.append(f"input      mean {_numbers(mean)}, std {_numbers(std)}{how}")
    lines += [f"assumed    {what}: {why}" for what, why in (info.get("assumed") or {}).items()]
    lines += [f"left out   {what}: {why}" for what, why in info.get("left_out", {}).items()]
    lines += [f"filled     {what}: {why}" for what, why in info.get("absent", {}).items()]
    good = ["encode", "evaluate", "fine-tuning", "train.init"]
    good += ["reconstruct", "further pretraining"] if weights.kind == "pretraining" else []
    lines.append(f"good for   {', '.join(good)}" + (", its classes" if weights.head is not None else ""))
    if weights.kind != "pretraining":
        lines.append("not for    reconstruct (there is no decoder)")
    lines.append(f"licence    {info.get('licence') or 'yours: a run of your own'}")
    return "\n".join(lines)


SIZES = (  # of methods
    "dim", "dims", "depth", "depths", "heads", "patch", "image_size", "volume_size", "spectrogram_size", "stride",
    "groups", "group_points", "channels",
)  # fmt: skip
POOLS = {
    "mean": "the mean of the patch tokens before the last norm, then a norm of its own",
    "normed_mean": "the mean of the patch tokens after the last norm",
    "class": "the class token after the last norm",
    "class_max": "the class token beside every channel's largest value over the other tokens, after the last norm",
}


def _numbers(values: Any) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
