"""Published fine-tuning recipes by name, and how one becomes the sections of a run's config.

A recipe gives values to keys of the section `transfer`; a key that the user sets counts instead. Rates are per 256
samples. `warmup` is in epochs, or a share of `steps`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mae_jax import modalities
from mae_jax.core.errors import UserError, nearest
from mae_jax.schema import Augment, Config, Transfer
from mae_jax.train.optimizers import FINETUNE_DECAY
from mae_jax.transfer.video_recipes import VIDEO_RECIPES

# facebookresearch/mae, main_finetune.py and FINETUNE.md; the paper's Table 9 has 0.75 for all layer decays.
_MAE: dict[str, Any] = dict(
    pool="mean", head_std=2e-5, dropout=0.0, warmup=5, batch=1024, optimizer="adamw", end_rate=1e-6, weight_decay=0.05,
    smoothing=0.1, mixup=0.8, cutmix=1.0, erase=0.25, randaugment="rand-m9-mstd0.5-inc1", crop_scale=(0.08, 1.0),
    average=0.0,
)  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "mae_b": _MAE | dict(epochs=100, learning_rate=5e-4, layer_decay=0.65, drop_path=0.1),
    "mae_l": _MAE | dict(epochs=50, learning_rate=1e-3, layer_decay=0.75, drop_path=0.2),
    "mae_h": _MAE | dict(epochs=50, learning_rate=1e-3, layer_decay=0.75, drop_path=0.3),
    "lut_b": _MAE | dict(epochs=100, learning_rate=1e-3, layer_decay=0.75, drop_path=0.1),
    "maskalign_b": _MAE | dict(epochs=100, learning_rate=3e-4, layer_decay=0.55, drop_path=0.2),
    "maskalign_l": _MAE | dict(epochs=50, learning_rate=3e-4, layer_decay=0.75, drop_path=0.4),
    # CAE's rates are absolute, 8e-3 and 2e-3 at 4096; colour jitter in the place of RandAugment (configs/cae).
    "cae_b": _MAE
    | dict(epochs=100, batch=4096, learning_rate=5e-4, layer_decay=0.65, drop_path=0.1, randaugment=""),
    "cae_l": _MAE
    | dict(epochs=50, batch=4096, learning_rate=1.25e-4, layer_decay=0.75, drop_path=0.2, randaugment=""),
    # Point-MAE's rate is absolute, 5e-4 at 32 (configs/pointmae); new class token, head of three layers.
    "pointmae": _MAE
    | dict(pool="class_max", head="mlp3", dropout=0.5, epochs=300, warmup=10, batch=32, learning_rate=4e-3,
           layer_decay=1.0, drop_path=0.1, smoothing=0.0, mixup=0.0, cutmix=0.0, erase=0.0, randaugment="",
           crop_scale=None),
    # Ours, for images of a few pixels and few of them: the crop and flip of pretraining, nothing that needs colours.
    "tiny": _MAE
    | dict(steps=400, epochs=None, warmup=0.1, batch=64, learning_rate=4e-3, layer_decay=0.75, drop_path=0.1, mixup=0.0,
           cutmix=0.0, erase=0.0, randaugment="", crop_scale=None),
} | VIDEO_RECIPES  # fmt: skip

# Keys of other sections that say the same as one of `transfer`: who sets one sets both.
SAME = {
    "train.steps": "steps", "train.batch": "batch", "optim.name": "optimizer", "optim.learning_rate": "learning_rate",
    "optim.end_rate": "end_rate", "optim.weight_decay": "weight_decay", "optim.layer_decay": "layer_decay",
    "optim.average": "average", "augment.mixup": "mixup", "augment.cutmix": "cutmix", "augment.erase": "erase",
    "augment.randaugment": "randaugment", "augment.crop_scale": "crop_scale",
}  # fmt: skip
# What of the pretraining's augmentation stays: how pixels are normalised, and where no recipe says otherwise the crop.
KEPT = ("mean", "std", "normalise", "interpolation", "where", "canvas", "crop_scale", "crop_ratio", "flip", "pad",
        "vertical_flip", "quarter_turns")  # fmt: skip
SMALL = 64  # pixels: what is smaller gets the recipe "tiny"


def choose(name: str, width: int, shape: tuple[int, ...] | None, video: bool = False) -> str:
    """The recipe's name; "auto" goes by the encoder's width; "tiny" where `shape` is of a small image or none.

    Args:
      shape: of an image, or of the frames of a `video`, for which "auto" means the recipes on Kinetics-400.
    """
    if name != "auto":
        if name not in RECIPES:
            raise UserError(f"unknown transfer.recipe '{name}'. {nearest(name, ['auto', *RECIPES])}")
        return name
    if shape is None or max(shape[:2]) < SMALL:
        return "tiny"
    if video:
        widths = {"s": 768, "b": 1024, "l": 1280}
        return f"videomae_{next((size for size, above in widths.items() if width < above), 'h')}_k400"
    return "mae_b" if width < 1024 else "mae_l" if width < 1280 else "mae_h"


def filled(transfer: Transfer, recipe: str) -> Transfer:
    """`transfer` with the recipe's values where it says nothing."""
    values = RECIPES[recipe]
    given = {key: getattr(transfer, key) for key in values if getattr(transfer, key) is not None}
    given |= {key: getattr(transfer, key) for key in ("steps", "epochs") if getattr(transfer, key) is not None}
    out: dict[str, Any] = dict(values) | given
    if "steps" in given:
        if "warmup" not in given and values.get("epochs"):
            out["warmup"] = values["warmup"] / values["epochs"]
        out["epochs"] = None
    elif "epochs" in given:
        if "warmup" not in given and values.get("steps"):
            out["warmup"] = values["warmup"] * out["epochs"]
        out["steps"] = None
    return dataclasses.replace(transfer, recipe=recipe, **out)


def sections(config: Config, transfer: Transfer, records: int, large: bool) -> dict[str, dict[str, Any]]:
    """The sections optim, augment, train, checkpoint, eval and log of a fine-tuning run.

    Args:
      config: what the method was pretrained with, of which the normalisation stays.
      transfer: filled.
      records: of the training split.
      large: whether images are larger than 224 pixels, and therefore evaluated without cutting off their border.
    """
    batch = transfer.batch or 1
    epoch = max(1, records // batch)  # a last batch that is not full is left to the next epoch
    steps = transfer.steps or max(1, round((transfer.epochs or 1) * epoch))
    warmup = round((transfer.warmup or 0) * (steps if transfer.steps else epoch))
    often = 100 if steps >= 2000 else 10  # validations at most, and after whole epochs
    every = epoch * math.ceil(steps / (often * epoch))
    optim = {
        "name": transfer.optimizer, "learning_rate": transfer.learning_rate, "scaling": "linear", "schedule": "cosine",
        "warmup": min(warmup, steps), "end_rate": transfer.end_rate, "b1": 0.9, "b2": 0.999,
        "weight_decay": transfer.weight_decay, "decay_rules": FINETUNE_DECAY, "layer_decay": transfer.layer_decay,
        "average": transfer.average,
    }  # fmt: skip
    return {
        "optim": optim,
        "augment": _augment(config.augment, transfer, large),
        "train": {"steps": steps, "batch": batch, "seed": config.train.seed, "precision": config.train.precision},
        "checkpoint": {"every": every, "keep": 2, "best": "val/map" if transfer.multilabel else "val/top1"},
        "eval": {"every": every, "batch": config.eval.batch, "limit": config.eval.limit},
        "log": {"every": max(1, min(50, steps // 20))},
    }


def _augment(base: Augment, transfer: Transfer, large: bool) -> dict[str, Any]:
    out: dict[str, Any] = {key: getattr(base, key) for key in KEPT} | modalities.tuned(base)
    out |= {key: getattr(transfer, key) for key in ("mixup", "cutmix", "erase")}
    out["eval_crop"] = 1.0 if large else Augment.eval_crop
    if transfer.randaugment:
        out |= {"randaugment": transfer.randaugment, "where": "host"}
    if transfer.crop_scale is not None:
        out["crop_scale"] = transfer.crop_scale
    return out


def merged(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sections of configs laid over each other, key by key. A layer that names another data source replaces it."""
    out: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for name, section in layer.items():
            if name == "data" and "source" in section and section["source"] != out.get("data", {}).get("source"):
                out["data"] = {}
            out[name] = out.get(name, {}) | dict(section)
    return out
