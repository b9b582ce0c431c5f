"""From pretrained weights, a config file and overrides to the config of a segmentation run, and the run itself."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mae_jax.config import make_method, resolve
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import frozen_shardings, use_mesh
from mae_jax.core.types import Params
from mae_jax.data.scene import SceneAugment, SceneImage, SceneLabels
from mae_jax.data.sources import Source
from mae_jax.data.views import Views
from mae_jax.methods.base import own_rules
from mae_jax.nets.vit import sizes
from mae_jax.schema import Config, Transfer
from mae_jax.train.build import Run, build, open_split, sample_batch
from mae_jax.train.optimizers import FINETUNE_DECAY
from mae_jax.train.state import State
from mae_jax.transfer import start as starting
from mae_jax.transfer.plan import Raw
from mae_jax.transfer.reach import pruned
from mae_jax.transfer.recipes import merged
from mae_jax.transfer.segment_eval import Inference
from mae_jax.transfer.segmenter import HEAD, Segmenter
from mae_jax.weights.store import Weights

# By head. "linear": DINOv2's frozen probe [recalled: 40k steps of 16]; "upernet": MAE on ADE20K by mmseg's config
# (configs/mae/segment_*.py have what differs between B and L).
RECIPES: dict[str, dict[str, Any]] = {
    "linear": dict(steps=40_000, batch=16, rate=1e-3, weight_decay=1e-4, layer_decay=1.0, drop_path=0.0),
    "upernet": dict(steps=160_000, batch=16, rate=1e-4, weight_decay=0.05, layer_decay=0.65, drop_path=0.1),
}
WARMUP = 1500  # steps, but no more than a tenth of all
# mmseg's PhotoMetricDistortion as augment.colour_jitter; there each of the four has its own probability of 1/2.
PHOTOMETRIC = {"colour_jitter": (0.125, 0.5, 0.5, 0.05), "colour_jitter_p": 0.5}
AUGMENT = ("mean", "std", "normalise", "interpolation")  # what of the pretraining's augmentation stays


@dataclasses.dataclass(frozen=True)
class SegmentRun(Run):
    """A run on scenes.

    Attributes:
      encoder: {"params", "stats"} of an encoder that is not trained; None: it is trained.
    """

    encoder: Any = None

    @functools.cached_property
    def frozen(self) -> dict[str, Params]:  # type: ignore[override]
        return {} if self.encoder is None else {"encoder": self.encoder}

    @functools.cached_property
    def frozen_hashes(self) -> dict[str, str]:  # type: ignore[override]
        return {}  # transfer.init says which encoder it is

    def views(self, train: bool, view: int = 0) -> Views:
        t, method = self.config.transfer, self.method
        assert isinstance(method, Segmenter)
        law = SceneAugment(method.size, t.segment_short, t.segment_scale, t.segment_max_ratio)
        if not train:
            law = dataclasses.replace(law, scale=(1, 1), max_ratio=1, flip=False)
        channels = method.batch_spec["image"].shape[-1]
        return Views(
            {"image": SceneImage(law, channels, fill(self.config, channels)), "segmentation": SceneLabels(law)}
        )


def segment_config(
    pretrained: Raw,
    file: Raw | None = None,
    overrides: Sequence[str] = (),
    *,
    init: str = "",
    source: Source | None = None,
) -> Config:
    """The resolved config of a segmentation run: pretrained, then the head's recipe, then `file`, then `overrides`.

    Args: as `plan.finetune_config`.

    Raises:
      UserError: what does not fit, data without classes of pixels among it.
    """
    file = dict(file or {})
    asked = dict(file.pop("method", {}))  # the weights' own fields count before a file's
    if asked.get("name", pretrained["method"]["name"]) != pretrained["method"]["name"]:
        raise UserError(
            f"the config file segments with method.name='{asked['name']}', but the weights are of "
            f"'{pretrained['method']['name']}'."
        )
    base = {name: dict(pretrained[name]) for name in ("method", "data", "transfer") if name in pretrained}
    base["method"] = asked | base["method"]
    train = pretrained.get("train", {})
    base["train"] = {key: train[key] for key in ("precision", "seed") if key in train}
    base["eval"] = {key: v for key, v in pretrained.get("eval", {}).items() if key == "limit"}
    base["augment"] = {key: v for key, v in pretrained.get("augment", {}).items() if key in AUGMENT}
    task = {"transfer": {"task": "segment"}}
    first = resolve(merged(base, file, task), overrides)
    source = open_split(first, "train") if source is None else source
    check_scenes(source, "training")
    t = filled(first.transfer)
    t = dataclasses.replace(t, task="segment", init=init, classes=len(source.segments), drop_path=t.segment_drop_path)
    layers: list[Raw] = [base, _method(first, t), _sections(first, t), file, {"transfer": dataclasses.asdict(t)}]
    mesh = {"mesh": dataclasses.asdict(first.mesh)}
    return resolve(merged(*layers, mesh), [o for o in overrides if not o.startswith("transfer.")])


def filled(transfer: Transfer) -> Transfer:
    """With the values of the head's recipe where nothing else is said."""
    values = {f"segment_{key}": value for key, value in RECIPES[transfer.segment_head].items()}
    given = {key for key in values if getattr(transfer, key) is not None}
    return dataclasses.replace(transfer, **{key: v for key, v in values.items() if key not in given})


def _sections(first: Config, t: Transfer) -> dict[str, dict[str, Any]]:
    """The sections optim, augment, train, checkpoint, eval and log."""
    steps, batch = t.segment_steps or 1, t.segment_batch or 1
    every = max(1, -(-steps // 10))
    colours = make_method(first).batch_spec.get("image")
    photometric = PHOTOMETRIC if t.segment_photometric and colours is not None and colours.shape[-1] == 3 else {}
    return {
        "optim": {
            "name": "adamw", "learning_rate": t.segment_rate, "scaling": "none", "schedule": "linear",
            "warmup": min(WARMUP, steps // 10), "b1": 0.9, "b2": 0.999, "weight_decay": t.segment_weight_decay,
            "decay_rules": FINETUNE_DECAY, "layer_decay": t.segment_layer_decay,
        },
        "augment": {key: getattr(first.augment, key) for key in AUGMENT} | {"flip": False} | photometric,
        "train": {"steps": steps, "batch": batch, "seed": first.train.seed, "precision": first.train.precision},
        "checkpoint": {"every": every, "keep": 2, "best": "val/miou"},
        "eval": {"every": every, "batch": batch, "limit": first.eval.limit},
        "log": {"every": max(1, min(50, steps // 20)), "pictures": 6},
    }  # fmt: skip


def _method(first: Config, t: Transfer) -> dict[str, dict[str, Any]]:
    """A table of positions becomes a parameter where the encoder is trained, and where the size changes (MAE, BEiT)."""
    own = first.method
    if "positions" not in own or own["positions"] == "none":
        return {}
    size = _size(first, t)
    same = size == sizes(own["image_size"])
    if same and (t.segment_head == "linear" or own["positions"] == "learned"):
        return {}
    return {"method": {"positions": "learned"} | ({} if same else {"image_size": size})}


def _size(config: Config, t: Transfer) -> tuple[int, int]:
    size = config.method.get("image_size") if t.segment_size is None else t.segment_size
    if size is None:
        raise UserError(f"'{config.method['name']}' has no image size: set transfer.segment_size.")
    rows, columns = sizes(size)
    return rows, columns


def build_segment(
    config: Config, weights: Weights | None, devices: list[jax.Device] | None = None, *, load: bool = True
) -> SegmentRun:
    """The run of a segmentation config; a frozen encoder is loaded from `weights` (None: random).

    Args:
      load: False: no array of the encoder is made, only its shapes are known.

    Raises:
      UserError: what does not fit.
    """
    t = config.transfer
    if config.train.sizes or config.augment.where != "host":
        raise UserError(
            "segmentation crops scenes on the host and has one size, transfer.segment_size: leave train.sizes empty "
            "and augment.where as 'host'."
        )
    inner = make_method(config)
    method = Segmenter(
        inner=inner, compute=inner.compute, classes=t.classes, size=_size(config, t), head=t.segment_head,
        trained=t.segment_head == "upernet", channels=t.segment_channels, auxiliary=t.segment_auxiliary,
        blocks=t.segment_blocks,
    )  # fmt: skip
    method.check()
    run = build(config, devices, method)
    parts: dict[str, Any] = {f.name: getattr(run, f.name) for f in dataclasses.fields(Run)}
    if not method.trained:
        shapes = frozen_shardings(jax.eval_shape(_fresh(run, method)), run.mesh, own_rules(inner, "lies"))
        parts["frozen_shapes"] = {"encoder": shapes}
        if load:
            parts["encoder"] = _frozen_encoder(run, method, weights, shapes)
    return SegmentRun(**parts)


def _frozen_encoder(run: Run, method: Segmenter, weights: Weights | None, shapes: Any) -> dict[str, Any]:
    """{"params", "stats"} that the head depends on, on the devices."""
    with use_mesh(run.mesh):
        made = jax.jit(_fresh(run, method), out_shardings=jax.tree.map(lambda s: s.sharding, shapes))()
    return made | starting.encoder(made, method.inner, weights)


def _fresh(run: Run, method: Segmenter) -> Callable[[], dict[str, Any]]:
    """Makes a random encoder's {"params", "stats"}, as far as the head depends on them."""
    inner, found = method.inner, method.reach

    def fresh() -> dict[str, Any]:
        params, stats = inner.init(jax.random.key(run.config.train.seed), sample_batch(inner))
        return {"params": pruned(params, found.params), "stats": pruned(stats, found.stats)}

    return fresh


def start(run: Run, weights: Weights | None) -> State:
    """A fresh state; a trained encoder has the values of `weights` (None: random)."""
    state, method = run.init(), run.method
    assert isinstance(method, Segmenter)
    if not method.trained:
        return state
    own = {part: {n: x for n, x in state[part].items() if n not in HEAD} for part in ("params", "stats")}
    found = starting.encoder(own, method.inner, weights)
    state |= {part: state[part] | found[part] for part in own}
    if run.averaging:
        state["ema"]["average"] = jax.tree.map(jax.numpy.copy, state["params"])
    return state


def inference(config: Config, method: Segmenter) -> Inference:
    """How whole images are segmented, by the config."""
    t = config.transfer
    stride = tuple(-(-2 * n // 3) for n in method.size) if t.segment_stride is None else sizes(t.segment_stride)
    if min(stride) < 1 or any(s > n for s, n in zip(stride, method.size)):
        raise UserError(f"transfer.segment_stride={stride}: at least 1 and at most the windows' size {method.size}.")
    channels = method.batch_spec["image"].shape[-1]
    patch = sizes(getattr(method.inner, "patch", 32))
    multiple = (patch[0], patch[1])
    return Inference(
        t.segment_inference, method.size, (stride[0], stride[1]), t.segment_short, multiple, fill(config, channels)
    )


def fill(config: Config, channels: int) -> tuple[int, ...]:
    """The colour beyond an image, 0..255: the mean, so that it is 0 for the network."""
    mean = config.augment.mean
    mean = mean if len(mean) == channels else mean[:1] * channels
    return tuple(int(np.clip(round(255 * m), 0, 255)) for m in mean)


def check_scenes(source: Source, what: str) -> None:
    """Raise UserError where the records have no classes of pixels."""
    if not source.segments:
        raise UserError(
            f"segmentation needs a class for each pixel, and the {what} split has none: {source.describe()}. Take "
            f"data.source=segmentation (folders of images and annotations) or shapes (made up)."
        )
