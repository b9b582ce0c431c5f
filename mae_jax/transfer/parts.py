"""Segmentation of clouds into parts: a method's encoder, trained with Point-MAE's head, in the loop's hands.

What `mae_jax segment` trains where the method reads point clouds. The recipe is Point-MAE's for ShapeNetPart; theirs
steps twice per batch with the same gradients (once unclipped), ours once.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax import modalities
from mae_jax.config import make_method, resolve
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.core.mesh import replicated, use_mesh
from mae_jax.core.types import Aux, Batch, Features, Params, Stats
from mae_jax.data.point_sampling import PointLabels, PointSample
from mae_jax.data.sources import Source
from mae_jax.data.views import Views
from mae_jax.eval import parts as scoring
from mae_jax.eval.features import fetch
from mae_jax.losses.cross_entropy import cross_entropy
from mae_jax.methods.base import Leaf, Method, Rest, Rule
from mae_jax.nets.layers import apply_stats
from mae_jax.nets.part_head import HIDDEN, PartHead, thirds
from mae_jax.schema import Config
from mae_jax.train.build import Run, build, open_split, sample_batch
from mae_jax.train.feed import eval_batches
from mae_jax.train.loop import Task, train
from mae_jax.train.optimizers import FINETUNE_DECAY
from mae_jax.train.state import State, rest_of
from mae_jax.transfer import start as starting
from mae_jax.transfer.finetune import dropout
from mae_jax.transfer.plan import Raw
from mae_jax.transfer.reach import Reach, pruned, reach, whole
from mae_jax.transfer.recipes import merged
from mae_jax.weights.store import Weights

EPOCHS, WARMUP = 300, 10
DROPOUT = 0.5  # after the first of the three layers on points
RECIPE: dict[str, Any] = dict(segment_batch=16, segment_rate=2e-4, segment_weight_decay=0.05, segment_layer_decay=1.0,
              segment_drop_path=0.1)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartSegmenter(Method):
    """What is trained on clouds with parts; categories are the records' classes, and known (as the field does it).

    Attributes:
      inner: the method whose encoder it is; its `compute` holds the drop-path rate.
      counts: how many parts each category has; they are numbered through.
      blocks: after which of the encoder's blocks tokens are read; (): at each third of the depth.
    """

    name: ClassVar[str] = "segment"

    inner: Method
    counts: tuple[int, ...]
    blocks: tuple[int, ...] = ()

    @property
    def reach(self) -> Reach:
        return reach(self.inner, reader(self.read_blocks))

    @property
    def read_blocks(self) -> tuple[int, ...]:
        return self.blocks or tuple(thirds(self.inner.depth))  # type: ignore[attr-defined]

    @property
    def head(self) -> PartHead:
        return PartHead(len(self.counts), sum(self.counts), self.inner.compute.dtype)

    @property
    def batch_spec(self) -> Mapping[str, Leaf]:
        points = self.inner.batch_spec["points"]
        return {"points": points, "part": Leaf(points.shape[:1], "int32"), "label": Leaf((), "int32")}

    @property
    def couples(self) -> tuple[str, ...]:
        return ("bn",)

    @property
    def rules(self) -> Mapping[str, Rule]:
        return self.inner.rules

    def check(self) -> None:
        self.inner.check()
        depth = self.inner.depth  # type: ignore[attr-defined]
        if not all(0 <= i < depth for i in self.blocks):
            raise UserError(f"transfer.segment_blocks={self.blocks}: this encoder has blocks 0..{depth - 1}.")

    def init(self, key: Array, batch: Batch) -> tuple[Params, Stats]:
        encoder_key, head_key = jax.random.split(key)
        params, stats = self.inner.init(encoder_key, sample_batch(self.inner))
        rest = {"stats": stats, "ema": {}, "frozen": {}}
        tokens, centres = reader(self.read_blocks)(self.inner.encode(params, rest, {"points": batch["points"]}))
        head = self.head.init(head_key, batch["points"], centres, tokens, batch["label"], self._wide)
        own = pruned(params, self.reach.params) | {"head": head["params"]}
        return own, pruned(stats, self.reach.stats) | {"head": head["stats"]}

    @property
    def _wide(self) -> int:
        return 4 * self.inner.dim  # type: ignore[attr-defined]

    def encode(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> Features:
        found, zeros = self.reach, lambda s: jnp.zeros(s.shape, s.dtype)
        stats = whole(pruned(rest["stats"], found.stats), found.all_stats, zeros)
        own = whole(pruned(params, found.params), found.all_params, zeros)
        features = self.inner.encode(
            own, {"stats": stats, "ema": {}, "frozen": {}}, {"points": batch["points"]}, ctx=ctx, train=train
        )
        return dataclasses.replace(features, stats=pruned(features.stats or stats, found.stats))

    def logits(
        self, params: Params, rest: Rest, batch: Batch, *, ctx: Context | None = None, train: bool = False
    ) -> tuple[Float[Array, "b n parts"], Stats]:
        """(logits of every point, statistics after the call)."""
        features = self.encode(params, rest, batch, ctx=ctx, train=train)
        tokens, centres = reader(self.read_blocks)(features)
        drop = None
        if ctx is not None and train:
            drop = dropout(ctx.uniform("segment/head", (*batch["points"].shape[:2], HIDDEN[0])), DROPOUT)
        inputs = batch["points"], centres, tokens, batch["label"], self._wide, drop
        logits, after = apply_stats(self.head, params["head"], rest["stats"]["head"], *inputs, train=train)
        return logits, dict(features.stats or {}) | {"head": after}

    def loss(self, params: Params, rest: Rest, batch: Batch, ctx: Context) -> tuple[Float[Array, ""], Aux]:
        """Cross entropy over all parts of all categories, the mean over points."""
        logits, stats = self.logits(params, rest, batch, ctx=ctx, train=ctx.train)
        loss = cross_entropy(logits, batch["part"]).mean()
        hits = 100 * (logits.argmax(axis=-1) == batch["part"]).mean(dtype=jnp.float32)
        return loss, Aux(stats=stats, metrics={"loss": loss, "point_accuracy": hits}, seen={"logits": logits})


@functools.cache
def reader(blocks: tuple[int, ...]) -> Any:
    """(tokens of these blocks after the last norm, side by side; the centres), of Features; one function per choice."""

    def read(features: Features) -> tuple[Array, Array]:
        return jnp.concatenate([features.parts[f"normed{i}"] for i in blocks], axis=-1), features.parts["centres"]

    return read


@dataclasses.dataclass(frozen=True)
class PartRun(Run):
    """A run on clouds with parts: a point's label is taken where the point is."""

    def views(self, train: bool, view: int = 0) -> Views:
        leaf = self.method.batch_spec["points"]
        modality: Any = modalities.find("points", self.config.augment)
        sample = modality.host("points", leaf, train, 0, 0)
        assert isinstance(sample, PointSample)
        return Views({"points": sample, "part": PointLabels(sample)})


class PartValidation:
    """Scores of a run's states on its test split."""

    def __init__(self, run: Run, train: Source, test: Source):
        self.run, self.test = run, test
        method = run.method
        assert isinstance(method, PartSegmenter)
        self._parts = scoring.offsets(method.counts)
        allowed = np.zeros((len(method.counts), sum(method.counts)), bool)
        for row, parts in zip(allowed, self._parts):
            row[parts.start : parts.stop] = True

        def predict(params: Any, rest: Any, batch: Batch) -> Array:
            logits, _ = method.logits(params, rest, run.augment({k: x for k, x in batch.items() if k != "valid"}))
            mine = jnp.asarray(allowed)[batch["label"]][:, None]
            return jnp.where(mine, logits, -jnp.inf).argmax(axis=-1)  # among the parts of the cloud's category

        self._predict = jax.jit(predict, out_shardings=replicated(run.mesh))

    @staticmethod
    def check(run: Run, train: Source, test: Source) -> None:
        """Raise UserError where the splits have no parts, or others than each other."""
        check_parts(train, "training")
        check_parts(test, "test")
        if (train.classes, train.part_counts) != (test.classes, test.part_counts):
            raise UserError("the training split and the test split have not the same categories and parts.")

    def online(self, state: State) -> dict[str, float]:
        """{"val/instance_miou", "val/class_miou", "val/accuracy"} in percent."""
        found = self.scores(state)
        return {f"val/{key}": getattr(found, key) for key in ("instance_miou", "class_miou", "accuracy")}

    def scores(self, state: State) -> scoring.PartScore:
        """Over the test split; of the weights' average, if there is one."""
        params, rest = state["ema"].get("average", state["params"]), rest_of(state, self.run.frozen)
        ious, categories, hits, points = [], [], 0, 0
        with eval_batches(self.run, self.test) as batches, use_mesh(self.run.mesh):
            for batch in batches:
                placed = self.run.put(batch)
                predicted = fetch(self._predict(params, rest, placed))
                truth, label, valid = (fetch(placed[key]) for key in ("part", "label", "valid"))
                for p, t, c in zip(predicted[valid], truth[valid], label[valid]):
                    ious.append(scoring.cloud_iou(t, p, self._parts[c]))
                    categories.append(c)
                    hits, points = hits + int((t == p).sum()), points + len(t)
        if not ious:
            raise UserError(f"the test split has no cloud that can be read: {self.test.describe()}.")
        return scoring.score(np.array(ious), np.array(categories), len(self._parts), hits / points)


def segment_parts(
    weights: Weights | None, out: Path, *, pretrained: Raw, file: Raw | None = None, overrides: Sequence[str] = ()
) -> int:
    """Train a segmenter of parts on `weights` (None: on a random encoder). As `segment.segment`."""
    config = parts_config(pretrained, file, overrides, init=starting.identity(weights))
    return train(config, out, segmenting(weights))


def segmenting(weights: Weights | None) -> Task:
    """What `train` needs to know of a segmentation run of clouds that starts from `weights`."""
    return Task("segment", build_parts, lambda run: start(run, weights), PartValidation, report)


def parts_config(
    pretrained: Raw,
    file: Raw | None = None,
    overrides: Sequence[str] = (),
    *,
    init: str = "",
    source: Source | None = None,
) -> Config:
    """The resolved config: pretrained, then the recipe, then `file`, then `overrides`. Raises UserError.

    Args:
      source: the training split; None: opened as the config says.
    """
    file = file or {}
    base: dict[str, Any] = {n: dict(pretrained[n]) for n in ("method", "data", "transfer") if n in pretrained}
    base["train"] = {k: v for k, v in pretrained.get("train", {}).items() if k in ("precision", "seed")}
    base["augment"] = {k: v for k, v in pretrained.get("augment", {}).items() if k.startswith("points_")}
    first = resolve(merged(base, file, {"transfer": {"task": "segment"}}), overrides)
    source = open_split(first, "train") if source is None else source
    check_parts(source, "training")
    t = first.transfer
    t = dataclasses.replace(t, **{k: v for k, v in RECIPE.items() if getattr(t, k) is None})
    epoch = max(1, len(source) // (t.segment_batch or 1))
    steps = t.segment_steps or EPOCHS * epoch
    every = max(1, -(-steps // 30))
    t = dataclasses.replace(
        t, task="segment", init=init, classes=len(source.classes), drop_path=t.segment_drop_path, segment_steps=steps
    )
    sections: dict[str, dict[str, Any]] = {
        "optim": {
            "name": "adamw", "learning_rate": t.segment_rate, "scaling": "none", "schedule": "cosine", "clip": 10.0,
            "warmup": steps * WARMUP // EPOCHS, "end_rate": 1e-6, "b1": 0.9, "b2": 0.999,
            "weight_decay": t.segment_weight_decay, "decay_rules": FINETUNE_DECAY, "layer_decay": t.segment_layer_decay,
        },
        "train": {"steps": steps, "batch": t.segment_batch},
        "checkpoint": {"every": every, "keep": 2, "best": "val/instance_miou"},
        "eval": {"every": every, "batch": t.segment_batch},
        "log": {"every": max(1, min(50, steps // 20))},
    }  # fmt: skip
    layers: list[Raw] = [base, sections, file, {"transfer": dataclasses.asdict(t)}]
    return resolve(merged(*layers), [o for o in overrides if not o.startswith("transfer.")])


def build_parts(config: Config, devices: list[jax.Device] | None = None, source: Source | None = None) -> PartRun:
    """The run of a config of parts; `source` as in `parts_config`. Raises UserError."""
    source = open_split(config, "train") if source is None else source
    inner = make_method(config)
    if config.augment.options.get("points_stored"):
        raise UserError("augment.points_stored: parts are segmented on the points that the host takes; set it to 0.")
    method = PartSegmenter(
        inner=inner, compute=inner.compute, counts=source.part_counts, blocks=config.transfer.segment_blocks
    )
    method.check()
    run = build(config, devices, method)
    return PartRun(**{f.name: getattr(run, f.name) for f in dataclasses.fields(Run)})


def start(run: Run, weights: Weights | None) -> State:
    """A fresh state with the encoder of `weights` (None: random)."""
    state, method = run.init(), run.method
    assert isinstance(method, PartSegmenter)
    own = {part: {n: x for n, x in state[part].items() if n != "head"} for part in ("params", "stats")}
    found = starting.encoder(own, method.inner, weights, run.config.transfer.fresh)
    state |= {part: state[part] | found[part] for part in own}
    if run.averaging:
        state["ema"]["average"] = jax.tree.map(jnp.copy, state["params"])
    return state


def check_parts(source: Source, what: str) -> None:
    """Raise UserError where the records have no parts."""
    if not source.part_counts or not source.classes:
        raise UserError(
            f"the segmentation of clouds needs a part for each point, and the {what} split has none: "
            f"{source.describe()}. Take data.source=points with ShapeNetPart's layout, or made_points."
        )


def report(scores: PartValidation, state: State, workdir: Path) -> None:
    """Scores to the screen and to results.json."""
    found = scores.scores(state)
    if jax.process_index():
        return
    out: dict[str, Any] = {key: round(getattr(found, key), 2) for key in ("instance_miou", "class_miou", "accuracy")}
    names = scores.test.classes
    out["category"] = {n: None if math.isnan(x) else round(float(x), 2) for n, x in zip(names, found.category)}
    (workdir / "results.json").write_text(json.dumps(out, indent=2) + "\n")
    print(
        f"instance mIoU {found.instance_miou:.2f} %, class mIoU {found.class_miou:.2f} %, points {found.accuracy:.2f} %"
        f"\nwritten to {workdir}/: results.json",
        flush=True,
    )
