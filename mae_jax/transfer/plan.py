"""From pretrained weights, a config file and overrides to the config of a fine-tuning run."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mae_jax import modalities
from mae_jax.config import make_method, resolve
from mae_jax.core.errors import UserError
from mae_jax.data.sources import Source
from mae_jax.methods.base import config_fields
from mae_jax.schema import Config
from mae_jax.train.build import open_split
from mae_jax.transfer.finetune import READ, FineTune, frozen_rule
from mae_jax.transfer.reach import reach
from mae_jax.transfer.recipes import KEPT, SAME, SMALL, choose, filled, merged, sections

Raw = Mapping[str, Mapping[str, Any]]


def finetune_config(
    pretrained: Raw,
    file: Raw | None = None,
    overrides: Sequence[str] = (),
    *,
    init: str = "",
    source: Source | None = None,
) -> Config:
    """The resolved config of a fine-tuning run: pretrained, then recipe, then `file`, then `overrides`.

    Args:
      pretrained: the config of the weights: its method, normalisation and data stay where nothing else is said.
      file: a config file's sections.
      overrides: "section.key=value".
      init: says which weights the run starts from.
      source: the training split; None: opened as the config says.

    Raises:
      UserError: what does not fit, data without labels among it.
    """
    file = file or {}
    _same_method(pretrained, file)
    base = {name: pretrained[name] for name in ("method", "data", "augment", "eval", "transfer") if name in pretrained}
    train = pretrained.get("train", {})
    base["train"] = {key: train[key] for key in ("precision", "seed") if key in train}
    base["eval"] = {key: v for key, v in base.get("eval", {}).items() if key in ("batch", "limit", "pool")}
    base["augment"] = {key: v for key, v in base.get("augment", {}).items() if key in KEPT or modalities.keeps(key)}
    start = {"transfer": {"task": "finetune"}, "method": _learned(pretrained["method"])}
    explicit = {f"{name}.{key}" for name, keys in file.items() for key in keys}
    explicit |= {text.partition("=")[0] for text in overrides}
    first = resolve(merged(base, start, file), overrides)
    values = {
        key: getattr(getattr(first, name.split(".")[0]), name.split(".")[1])
        for name, key in SAME.items() if name in explicit
    }  # fmt: skip
    if "randaugment" in values:
        values["randaugment"] = values["randaugment"] or ""
    asked = dataclasses.replace(first.transfer, **values)
    source = open_split(first, "train") if source is None else source
    check_labels(source, "training")
    method = make_method(first)
    spec = method.batch_spec
    shape = spec["image"].shape if "image" in spec else spec["video"].shape[1:] if "video" in spec else None
    width = reach(method, READ["normed_mean"]).out.shape[-1]
    transfer = filled(asked, choose(asked.recipe, width, shape, video="video" in spec))
    if asked.randaugment is None and (shape is None or shape[-1] != 3):
        transfer = dataclasses.replace(transfer, randaugment="")  # it knows red, green and blue alone
    transfer = dataclasses.replace(
        transfer, task="finetune", init=init, classes=len(source.classes), multilabel=source.multilabel
    )
    # Clips are never resized to more than is seen of them (VideoMAE).
    large = shape is not None and max(shape[:2]) > (SMALL if "video" in spec else 224)
    recipe = sections(first, transfer, len(source), large)
    layers: list[Any] = [base, start, recipe, file, {"transfer": dataclasses.asdict(transfer)}]
    mesh = {"mesh": dataclasses.asdict(first.mesh)}
    config = resolve(merged(*layers, mesh), [o for o in overrides if not o.startswith("transfer.")])
    if transfer.trained is None:
        return config
    still = ((frozen_rule(transfer.trained), 0.0),)  # what is not trained does not decay either
    return dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, decay_rules=still + config.optim.decay_rules)
    )


def make_finetune(config: Config) -> FineTune:
    """The method that a fine-tuning config trains, checked."""
    t = config.transfer
    inner = make_method(config)
    method = FineTune(
        inner=inner, compute=inner.compute, classes=t.classes, multilabel=t.multilabel, pool=t.pool or "mean",
        head_kind=t.head or "linear", trained=t.trained, smoothing=t.smoothing or 0.0,
        head_std=2e-5 if t.head_std is None else t.head_std, dropout=t.dropout or 0.0,
    )  # fmt: skip
    method.check()
    return method


def check_labels(source: Source, what: str) -> None:
    """Raise UserError where records have no class."""
    if not source.classes or (source.labels.ndim != 1 and not source.multilabel):
        raise UserError(
            f"fine-tuning needs a class for each record, and the {what} split has none: {source.describe()}. Give "
            f"labels (for a folder: one sub-folder per class)."
        )
    if what == "training" and (source.labels < 0).any():
        raise UserError(
            f"{int((source.labels < 0).sum())} of {len(source)} records of the training split have no label: "
            f"leave them out of the split (data.train_split)."
        )


def _same_method(pretrained: Raw, file: Raw) -> None:
    """The sizes that both give must be the same, but for what fine-tuning may change."""
    own, theirs = file.get("method", {}), pretrained["method"]
    if "name" in own and own["name"] != theirs["name"]:
        raise UserError(
            f"the config file fine-tunes method.name='{own['name']}', but the weights are of '{theirs['name']}'."
        )


def _learned(method: Mapping[str, Any]) -> dict[str, Any]:
    """Positions become a trainable table where the method can have one (MAE, BEiT)."""
    from mae_jax import methods

    field = config_fields(methods.get(method["name"])).get("positions")
    return {"positions": "learned"} if field is not None and method.get("positions", field.default) == "sincos" else {}
