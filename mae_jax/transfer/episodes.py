"""Few-shot classification by fine-tuning: the mean over episodes of so many classes and training records of each."""

import dataclasses
from typing import Any

import numpy as np

from mae_jax import methods
from mae_jax.core.errors import UserError
from mae_jax.data.sources import Source
from mae_jax.eval.probes import Result
from mae_jax.methods.base import config_fields
from mae_jax.schema import Data
from mae_jax.transfer import start as starting
from mae_jax.transfer.plan import finetune_config
from mae_jax.transfer.recipes import RECIPES
from mae_jax.transfer.task import scores_after

CLASS_TOKEN = r"(^|/)(class_token|pos_embed)$"


def episodes_protocol(opened: Any, train_source: Source, test_source: Source) -> Result:
    """Protocol "episodes": fine-tune on each of transfer.episode_folds episodes; the mean accuracy, and its deviation.

    Point-MAE's is 150 epochs of its recipe per episode: transfer.recipe=pointmae, transfer.epochs=150.
    """
    pretrained = opened.config.to_dict()
    options = pretrained["transfer"]
    if options["episode_folds"] < 1:
        raise UserError(f"transfer.episode_folds={options['episode_folds']}: at least one episode expected.")
    own = {field.name for field in dataclasses.fields(Data)} - {"source"}  # not of the source that is drawn from
    data = {key: x for key, x in pretrained["data"].items() if key in own and not key.endswith("_split")}
    data |= {"source": "episode", "of": {key: x for key, x in pretrained["data"].items() if key not in own}}
    data |= {key: options[f"episode_{key}"] for key in ("way", "shot", "queries")}
    found = [_episode(opened, pretrained, data | {"fold": fold}) for fold in range(options["episode_folds"])]
    details = {"deviation": float(np.std(found)), "episodes": float(len(found))}  # over n, as the field's tables
    return Result(float(np.mean(found)), details=details)


def _episode(opened: Any, pretrained: dict[str, Any], data: dict[str, Any]) -> float:
    """Percent right in one episode, at the last step."""
    method, options = _with_class_token(pretrained["method"], pretrained["transfer"])
    file = {"data": data, "transfer": options, "method": method}
    config = finetune_config(pretrained, file, init=starting.identity(opened.weights))
    quiet = dataclasses.replace(config, log=dataclasses.replace(config.log, tensorboard=False))
    return scores_after(quiet, opened.weights)["top1"]


def _with_class_token(method: dict[str, Any], options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A fresh class token where the head reads one and pretraining had none (Point-MAE)."""
    pool = options["pool"] or RECIPES.get(options["recipe"], {}).get("pool")
    field = config_fields(methods.get(method["name"])).get("class_token")
    if pool not in ("class", "class_max") or field is None or method.get("class_token", field.default):
        return method, options
    return method | {"class_token": True}, options | {"fresh": (*options["fresh"], CLASS_TOKEN)}
