"""The train step that a config file means, of pretraining or of training on labels, lowered for given devices.

No weights and no data are read: the shapes are those of the config. What only data say, as the number of classes, is
taken from the config's section transfer, or assumed and said.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mae_jax.config import load, make_method, resolve
from mae_jax.core import mesh
from mae_jax.core.errors import UserError
from mae_jax.data.sources import Source, make_source
from mae_jax.methods.base import Method
from mae_jax.schema import Config
from mae_jax.train.build import Run, build, resized

RECORDS = 1_000_000  # of data that are not opened: only the schedule's length depends on them
CLASSES = 1000
PARTS = (4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3)  # ShapeNetPart: parts of its 16 categories


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be compiled.

    Attributes:
      config: resolved, of the run itself.
      task: "none" (pretraining), "finetune", "segment" or "parts" (segmentation of clouds).
      source: what is known of labelled data; None for pretraining.
      notes: what was assumed.
    """

    config: Config
    task: str
    source: Source | None = None
    notes: tuple[str, ...] = ()

    def with_config(self, **sections: Mapping[str, Any]) -> "Asked":
        """The same with other values in some sections: with_config(train={"microbatches": 4})."""
        changed = {name: dataclasses.replace(getattr(self.config, name), **keys) for name, keys in sections.items()}
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **changed))


class Stated(Source):
    """Labelled data of which only the classes are known."""

    def __init__(self, classes: int, multilabel: bool = False, parts: tuple[int, ...] = ()):
        self.classes = self.segments = tuple(str(k) for k in range(classes))
        self.labels = np.zeros(RECORDS, np.int32)
        self.multilabel, self.part_counts = multilabel, parts

    def name(self, i: int) -> str:
        return str(i)

    def describe(self) -> str:
        return f"{len(self.classes)} classes of data that are not opened"


def ask(spec: str, overrides: Sequence[str] = ()) -> Asked:
    """The config file `spec` as a run: of `train`, or of `finetune` or `segment` where its section transfer says so.

    Raises:
      UserError: what does not fit, as the verb itself would say.
    """
    raw, _ = load(spec)
    transfer = raw.get("transfer", {})
    task = transfer.get("task", "segment" if any(key.startswith("segment_") for key in transfer) else "none")
    task = next((o.partition("=")[2] for o in overrides if o.startswith("transfer.task=")), task)
    if task == "none":
        return Asked(resolve(raw, overrides), task)
    if "method" not in raw:
        raise UserError(f"{spec} leaves the network to the weights; add a section method, or compile its pretraining.")
    pretrained = {"method": raw["method"]}
    plain = resolve(raw, overrides)
    if task == "segment" and "points" in make_method(plain).batch_spec:
        task = "parts"
    source, notes = stated(plain, task)
    from mae_jax.transfer import parts, plan, segment_plan

    make = {"finetune": plan.finetune_config, "segment": segment_plan.segment_config, "parts": parts.parts_config}
    return Asked(make[task](pretrained, raw, overrides, source=source), task, source, notes)


def stated(config: Config, task: str) -> tuple[Source, tuple[str, ...]]:
    """(the labelled data of a config, what was assumed of them); only data that need no path are opened."""
    fields = config.data.options
    if "path" not in fields and config.data.source not in ("tfds", "mixture"):
        try:
            return make_source(config.data.source, config.data.train_split, fields), ()
        except UserError:
            pass  # it needs a path, or a package
    if task == "parts":
        return Stated(len(PARTS), parts=PARTS), ("ShapeNetPart's 16 categories and 50 parts",)
    several = bool(fields.get("multilabel", config.transfer.multilabel))
    count = config.transfer.classes or CLASSES
    notes = () if config.transfer.classes else (f"{count} classes (data are not opened; --config.transfer.classes=N)",)
    return Stated(count, several), notes


def make_run(asked: Asked, devices: Sequence[Any]) -> Run:
    """The run on these devices, at its largest image size. Raises UserError where the config does not fit them."""
    config, own = asked.config, list(devices)
    if asked.task == "none":
        run = build(config, own)
        if config.train.sizes:
            largest = max(size for _, size in config.train.sizes)
            run = dataclasses.replace(run, method=resized(run.method, largest))
        return run
    from mae_jax.transfer import parts, segment_plan, task

    if asked.task == "finetune":
        return task.build_finetune(config, own)
    if asked.task == "parts":
        return parts.build_parts(config, own, asked.source)
    return segment_plan.build_segment(config, None, own, load=False)


def may_be_cut(method: Method) -> bool:
    """Whether microbatches change no result: every leaf has rows, and no sample hangs together with others."""
    return all(leaf.batched for leaf in method.batch_spec.values()) and not method.couples


def batch_shapes(run: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch of a training step, as it lies on the devices."""
    return {
        name: jax.ShapeDtypeStruct(
            (run.config.train.batch if leaf.batched else 1, *leaf.shape), leaf.dtype, sharding=run.sharding(name)
        )
        for name, leaf in run.leaves.items()
    }


def trace(run: Run) -> Any:
    """The train step of the run, traced; `.jaxpr` is what it computes, `.lower().compile()` makes the program."""
    return run.step.trace(run.shapes, run.frozen_shapes, batch_shapes(run), run.method.plan(0))


def shardings(run: Run) -> str:
    """How every array of the train state and of frozen networks lies, as a table."""
    rows = mesh.table(run.shapes, run.mesh)
    if run.frozen_shapes:
        rows += mesh.table({"frozen": run.frozen_shapes}, run.mesh)
    return mesh.format_table(rows)
