"""Segmentation runs: the pretraining's loop with a segmenter, scenes and mIoU."""

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mae_jax import methods
from mae_jax.core.errors import UserError
from mae_jax.data.sources import Source
from mae_jax.eval.iou import SegmentationScore, score
from mae_jax.eval.pictures import save_png
from mae_jax.eval.probes import Result
from mae_jax.eval.segment_pictures import segmentation_sheet
from mae_jax.train.build import Run
from mae_jax.train.loop import Task, train
from mae_jax.train.state import State, rest_of
from mae_jax.transfer import start as starting
from mae_jax.transfer.plan import Raw
from mae_jax.transfer.recipes import merged
from mae_jax.transfer.segment_eval import SegmentationScores
from mae_jax.transfer.segment_plan import build_segment, check_scenes, inference, segment_config, start
from mae_jax.weights.store import Weights

PICTURE = Path("pictures") / "segmentation.png"


def segment(
    weights: Weights | None, out: Path, *, pretrained: Raw, file: Raw | None = None, overrides: Sequence[str] = ()
) -> int:
    """Train a segmenter on `weights` (None: on a random encoder), or go on where `out` left off.

    Args: as `task.finetune`.

    Returns: the exit status, 0 when the schedule was finished.
    """
    given = merged(pretrained, file or {})
    if "points" in methods.get(given["method"]["name"])().batch_spec:  # a cloud's points in the place of pixels
        from mae_jax.transfer.parts import segment_parts

        return segment_parts(weights, out, pretrained=pretrained, file=file, overrides=overrides)
    config = segment_config(pretrained, file, overrides, init=starting.identity(weights))
    return train(config, out, segmenting(weights))


def segmenting(weights: Weights | None) -> Task:
    """What `train` needs to know of a segmentation run that starts from `weights`."""
    return Task(
        "segment", lambda config: build_segment(config, weights), lambda run: start(run, weights),
        SegmentValidation, report,
    )  # fmt: skip


class SegmentValidation:
    """Scores of a segmentation run's states on its test split: what `train/probing.py: Probes` is to pretraining."""

    def __init__(self, run: Run, train: Source, test: Source):
        self.run, self.test = run, test
        config = run.config
        method: Any = run.method
        self._scores = SegmentationScores(
            run, inference(config, method), test, batch=config.eval.batch, limit=config.eval.limit
        )
        self._named = False

    @staticmethod
    def check(run: Run, train: Source, test: Source) -> None:
        """Raise UserError where the two splits have no classes of pixels, or others than each other."""
        check_scenes(train, "training")
        check_scenes(test, "test")
        if tuple(train.segments) != tuple(test.segments):
            raise UserError(
                f"the training split has {len(train.segments)} classes of pixels and the test split "
                f"{len(test.segments)}, and they are not the same: a segmenter needs the same ones in both."
            )

    def online(self, state: State) -> dict[str, float]:
        """{"val/miou", "val/pixel_accuracy", "val/mean_accuracy"} in percent."""
        found, _ = self.scores(state)
        return {f"val/{name}": getattr(found, name) for name in ("miou", "pixel_accuracy", "mean_accuracy")}

    def scores(self, state: State, examples: int = 0) -> tuple[SegmentationScore, list[tuple[Any, Any, Any]]]:
        """(scores over the test split, (image, truth, predicted) of its first records); of the average, if there is."""
        params = state["ema"].get("average", state["params"])
        matrix, drawn = self._scores(params, rest_of(state, self.run.frozen), examples)
        if self._scores.unreadable and not self._named and jax.process_index() == 0:
            self._named = True
            bad = self._scores.unreadable
            print(f"mae_jax: {len(bad)} scenes were passed over, first {bad[0]}", file=sys.stderr)
        return score(matrix), drawn


def report(scores: SegmentValidation, state: State, workdir: Path) -> None:
    """Scores to the screen and to results.json, the picture beside them."""
    found, drawn = scores.scores(state, scores.run.config.log.pictures)
    if jax.process_index():
        return
    names = scores.test.segments
    per_class = {name: None if math.isnan(x) else round(float(x), 2) for name, x in zip(names, found.iou)}
    out = {"miou": round(found.miou, 2), "pixel_accuracy": round(found.pixel_accuracy, 2),
           "mean_accuracy": round(found.mean_accuracy, 2), "iou": per_class}  # fmt: skip
    (workdir / "results.json").write_text(json.dumps(out, indent=2) + "\n")
    picture(workdir / PICTURE, drawn, names)
    print(summary(found, names), flush=True)
    print(f"written to {workdir}/: results.json{f', {PICTURE}' if drawn else ''}", flush=True)


def picture(path: Path, drawn: list[tuple[Any, Any, Any]], names: Sequence[str]) -> None:
    """Write the sheet of some test images, where there are any."""
    if drawn:
        save_png(path, segmentation_sheet(drawn, names))


def summary(found: SegmentationScore, names: Sequence[str], most: int = 30) -> str:
    """The scores as text; per class where there are few."""
    line = f"mIoU {found.miou:.2f} %, pixels {found.pixel_accuracy:.2f} %, mean class {found.mean_accuracy:.2f} %"
    if len(names) > most:
        return line
    each = ", ".join(f"{name} {x:.1f}" for name, x in zip(names, found.iou) if not math.isnan(x))
    return f"{line}\nIoU: {each}"


# Protocols of `mae_jax evaluate` ----------------------------------------------------------------------------------


def linear_protocol(opened: Any, train_source: Source, test_source: Source) -> Result:
    """Protocol "segment": a linear head on the frozen encoder; mIoU in percent."""
    return _protocol(opened, "linear")


def upernet_protocol(opened: Any, train_source: Source, test_source: Source) -> Result:
    """Protocol "segment_upernet": UperNet, the encoder trained too; mIoU in percent."""
    return _protocol(opened, "upernet")


def _protocol(opened: Any, head: str) -> Result:
    """Train in a temporary directory; of a run, the picture goes to its pictures/."""
    pretrained = opened.config.to_dict()
    pretrained["transfer"] = pretrained["transfer"] | {"segment_head": head}
    quiet: dict[str, dict[str, Any]] = {"eval": {"every": 0}, "checkpoint": {"best": None}}
    quiet["log"] = {"tensorboard": False}
    config = segment_config(pretrained, quiet, init=starting.identity(opened.weights))
    found: dict[str, Result] = {}

    def keep(scores: SegmentValidation, state: State, workdir: Path) -> None:
        scored, drawn = scores.scores(state, config.log.pictures)
        names = scores.test.segments
        found["result"] = Result(scored.miou, details=scored.details(names))
        run_folder = Path(str(opened.weights.info.get("source") or ""))
        if (run_folder / "config.json").is_file() and jax.process_index() == 0:
            picture(run_folder / PICTURE, drawn, names)
            print(f"written to {run_folder / PICTURE}", file=sys.stderr)

    task = Task(
        "segment", lambda c: build_segment(c, opened.weights), lambda run: start(run, opened.weights),
        SegmentValidation, keep,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mae_jax_segment_") as folder:
        status = train(config, Path(folder), task)
    if status:
        raise UserError(f"segmentation was stopped; `mae_jax segment` keeps checkpoints and resumes (status {status}).")
    return found["result"]
