"""Fine-tuning runs: the pretraining's loop with another method, another start and other scores."""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from mae_jax.core.errors import UserError
from mae_jax.data.sources import Source
from mae_jax.eval.probes import Result
from mae_jax.schema import Config, Transfer
from mae_jax.train.build import Run, build
from mae_jax.train.loop import Task, train
from mae_jax.train.state import State, rest_of
from mae_jax.train.writers import read_jsonl
from mae_jax.transfer import start as starting
from mae_jax.transfer.classify import Validation, result
from mae_jax.transfer.finetune import encoder_size
from mae_jax.transfer.plan import Raw, finetune_config, make_finetune
from mae_jax.weights import heads
from mae_jax.weights.store import Weights, write

MODEL = "model.safetensors"
AVERAGE = "model_average.safetensors"
NAMES = {"top1": "top-1", "top5": "top-5", "map": "mAP"}


def finetune(
    weights: Weights | None, out: Path, *, pretrained: Raw, file: Raw | None = None, overrides: Sequence[str] = ()
) -> int:
    """Fine-tune `weights` (None: train from scratch), or go on where `out` left off.

    Args:
      pretrained: the config of the weights, or of the network to train from scratch.
      file, overrides: what changes the recipe.

    Returns: the exit status, 0 when the schedule was finished.
    """
    config = finetune_config(pretrained, file, overrides, init=starting.identity(weights))
    return train(config, out, finetuning(weights))


def finetuning(weights: Weights | None) -> Task:
    """What `train` needs to know of a fine-tuning run that starts from `weights`."""

    def start(run: Run) -> State:
        state = starting.start(run, weights)
        count, left = encoder_size(run.method)  # type: ignore[arg-type]
        if jax.process_index() == 0:
            what = f"{count / 1e6:.2f} M parameters, {'random' if weights is None else run.config.transfer.init}"
            left_out = f"; not used: {', '.join(left)}" if left and weights is not None else ""
            print(f"{'encoder':>13}  {what}{left_out}", file=sys.stderr)
        return state

    return Task("finetune", build_finetune, start, Validation, report)


def build_finetune(config: Config, devices: list[jax.Device] | None = None) -> Run:
    """The run of a fine-tuning config."""
    if config.train.sizes:
        raise UserError("train.sizes: fine-tuning has one image size, method.image_size; leave train.sizes empty.")
    return build(config, devices, make_finetune(config))


def report(scores: Validation, state: State, workdir: Path) -> None:
    """Last and best scores to the screen and to results.json; the classifier to model.safetensors."""
    run, found = scores.run, scores.online(state)
    step = int(state["step"])
    out: dict[str, Any] = {name.removeprefix("val/"): round(value, 4) for name, value in found.items()}
    main = scores.main
    logged = (
        [r for r in read_jsonl(workdir / "metrics.jsonl") if f"val/{main}" in r] if jax.process_index() == 0 else []
    )
    best = max(logged, key=lambda r: r[f"val/{main}"], default=None)
    if best is not None:
        out |= {f"best_{main}": round(best[f"val/{main}"], 4), "best_step": best["step"]}
    sets = {MODEL: state["params"]} | ({AVERAGE: state["ema"]["average"]} if "average" in state["ema"] else {})
    for name, params in sets.items():
        prefix = "val/" if name == MODEL else "val/average_"
        metrics = {key: round(found[prefix + key], 4) for key in (*NAMES, "loss") if prefix + key in found}
        info = {"source": str(workdir), "step": step, "metrics": metrics}
        weights = starting.as_weights(run, params, state["stats"], info, tuple(scores.test.classes))
        if jax.process_index() == 0:
            write(workdir / name, weights)
    if jax.process_index() == 0:
        (workdir / "results.json").write_text(json.dumps(out, indent=2) + "\n")
        print(summary(out, len(scores.test)), flush=True)
        print(f"written to {workdir}/: results.json, {', '.join(sets)}", flush=True)


def summary(found: dict[str, Any], records: int) -> str:
    """The scores in a line or two."""
    line = f"{_named(found)}, loss {found['loss']:.4f} on {records} records"
    if average := _named(found, "average_"):
        line += f"\naverage of the weights: {average}"
    if best := _named(found, "best_"):
        line += f"\nbest {best} at step {found['best_step']} (chosen on these records; its checkpoint is kept)"
    return line


def _named(found: dict[str, Any], prefix: str = "") -> str:
    return ", ".join(f"{name} {found[prefix + key]:.2f} %" for key, name in NAMES.items() if prefix + key in found)


# Protocols of `mae_jax evaluate` ----------------------------------------------------------------------------------


def finetune_protocol(opened: Any, train_source: Source, test_source: Source) -> Result:
    """Protocol "finetune": train the encoder by transfer.recipe in a temporary directory; the last step's accuracy."""
    pretrained = opened.config.to_dict()
    config = finetune_config(pretrained, {"transfer": pretrained["transfer"]}, init=starting.identity(opened.weights))
    return result(scores_after(config, opened.weights))


def scores_after(config: Config, weights: Weights) -> dict[str, float]:
    """The scores at the last step of fine-tuning `weights` by `config`, in a directory that is gone afterwards."""
    found: dict[str, float] = {}

    def keep(scores: Validation, state: State, workdir: Path) -> None:
        found.update(scores.scores(state["params"], rest_of(state, scores.run.frozen)))

    task = Task("finetune", build_finetune, lambda run: starting.start(run, weights), Validation, keep)
    with tempfile.TemporaryDirectory(prefix="mae_jax_finetune_") as folder:
        if status := train(config, Path(folder), task):
            raise UserError(f"fine-tuning was stopped (status {status}); `mae_jax finetune` would resume.")
    return found


def classify_protocol(opened: Any, train_source: Source, test_source: Source) -> Result:
    """Protocol "classify": top-1 and top-5 of a fine-tuned classifier's own head on the test split."""
    weights: Weights = opened.weights
    if weights.head is None:
        raise UserError(
            "the protocol 'classify' scores a classifier, but these weights have no head: take the model.safetensors "
            "of a `mae_jax finetune`, or another protocol."
        )
    about = weights.info.get("head", {})
    count = heads.count(weights.head)
    names = list(about.get("classes", ()))
    if len(test_source.classes) != count or (names and names != list(test_source.classes)):
        odd = sorted({*names} ^ {*test_source.classes})[:3]
        raise UserError(
            f"the classifier knows {count} classes and the test split has {len(test_source.classes)}"
            f"{f', which are not the same: {odd}' if names and odd else ''}; its scores would mean nothing."
        )
    if about.get("multilabel", test_source.multilabel) != test_source.multilabel:
        several = ("one class", "several classes")
        raise UserError(
            f"the classifier was trained on {several[about['multilabel']]} per record, and the test split has "
            f"{several[test_source.multilabel]} (data.multilabel): its scores would mean nothing."
        )
    config = opened.config
    kind: Literal["linear", "mlp3"] = "linear" if "kernel" in weights.head["params"]["head"] else "mlp3"
    transfer = Transfer(
        task="finetune", classes=count, pool=about.get("pool", "mean"), head=kind,
        multilabel=test_source.multilabel,
    )  # fmt: skip
    run = build(config, method=make_finetune(dataclasses.replace(config, transfer=transfer)))
    shapes = run.shapes
    merged = {**weights.params, **weights.head["params"]}
    place = lambda x, s: jax.device_put(x.astype(s.dtype), s.sharding)
    params = starting.fitted(merged, shapes["params"], "the classifier", place)
    stats = starting.fitted(weights.stats, shapes["stats"], "the classifier", place)
    state = {"params": params, "stats": stats, "ema": {"teacher": {}}}
    return result(Validation(run, train_source, test_source).scores(params, rest_of(state, run.frozen)))
