"""The schema of a config: every section's keys, their defaults and what they mean. config.py fills and checks it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from mae_jax.core.chips import Attention, Norm


@dataclasses.dataclass(frozen=True)
class Data:
    """Where samples come from; the named source adds its own fields."""

    source: str = "folder"
    train_split: str = "train"  # which records train: "train", "train[:90%]", "train+test", "train[1000:]"
    test_split: str = "val"  # which records are probed and drawn; "test" is the same where there is only one of both
    repeats: int = 1  # views of each record, one after the other: read and decoded once (repeated augmentation)
    workers: int = 0  # decoding processes; 0 decodes in threads of the main one
    memory_mb: int = 1024  # bound of what each host computes ahead of need
    max_bad: float = 0.05  # share of unreadable records at which a run stops; below it they are replaced and counted
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the source's fields, filled by `resolve`


@dataclasses.dataclass(frozen=True)
class Augment:
    """What happens to a training image. Defaults: MAE's pretraining recipe."""

    crop_scale: tuple[float, float] | None = (0.2, 1.0)  # share of the area of a random crop; None: no random crop
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # aspect ratio of a random crop
    flip: bool = True  # mirror half of the images
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # per channel; integer images are scaled to [0, 1] first
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    pad: int = 0  # reflect so many pixels round the image and cut its size out at random (a small shift)
    noise: float = 0.0  # deviation of Gaussian noise on normalised training images, drawn for each view
    normalise: Literal["fixed", "batch"] = "fixed"  # "batch": from mean +- 2 std of the batch to [0, 1] (CROMA)
    where: Literal["host", "device"] = "host"  # crop, resize and flip on the host, or inside the step (docs/augment.md)
    canvas: tuple[int, int] = (512, 512)  # "device": pictures travel on canvases of so many pixels, shrunk to fit
    eval_crop: float = 0.875  # share of the resized image that evaluation cuts from its middle (224 of 256)
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"  # antialiased, unless the method says which
    randaugment: str | None = None  # RandAugment on the host by timm's grammar, as "rand-m9-mstd0.5-inc1"
    vertical_flip: bool = False  # exchange top and bottom of half of the images
    quarter_turns: bool = False  # turn square images by 0, 90, 180 or 270 degrees
    colour_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    colour_jitter_p: float = 1.0  # probability of the jitter; so are the next three, of what they name
    grayscale: float = 0.0
    blur: float = 0.0  # Gaussian, deviation 0.1..2 pixels
    solarize: float = 0.0  # invert what is above the middle
    one_of: bool = False  # at most one of these three per image; their probabilities add up to at most 1
    colour_views: tuple[str, ...] = ()  # leaves whose colours change, from jitter to solarize; (): all images
    erase: float = 0.0  # probability of a box of noise (random erasing)
    mixup: float = 0.0  # alpha: each image blended with another of the batch; with cutmix, one of both by halves
    cutmix: float = 0.0  # alpha: a box out of another image of the batch
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # KIND_...: modalities' fields, by `resolve`


@dataclasses.dataclass(frozen=True)
class Optim:
    """Optimizer and learning rate. Defaults: MAE's pretraining recipe."""

    name: str = "adamw"  # adamw, adam (weight decay inside the gradient), lamb, lars, sgd
    learning_rate: float = 1.5e-4  # before `scaling`
    scaling: Literal["linear", "sqrt", "none"] = "linear"  # peak = learning_rate * batch / 256 | sqrt(batch) / 4 | 1
    schedule: Literal["cosine", "cosine_inclusive", "cosine_linspace", "linear", "constant"] = (
        "cosine"  # after warm-up (train/schedules.py)
    )
    warmup: int = 0  # steps
    warmup_start: float = 0.0  # where the warm-up starts, as a share of the peak
    end_rate: float = 0.0  # the rate at the last step, as it is (not scaled)
    end_share: float = 0.0  # the same as a share of the peak; the larger of the two counts
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.9  # lars, sgd
    trust: float = 0.001  # lars
    weight_decay: float = 0.05
    weight_decay_end: float | None = None  # where a cosine over all steps takes it; None: constant
    decay_rules: tuple[tuple[str, float], ...] = (
        (r"(^|/)(bias|q_bias|v_bias|scale|gamma|slope|temperature|mix)$", 0.0),
        (r"(^|/)(kernel|class_token|mask_token|pos_embed)$", 1.0),
    )  # (regular expression over parameter paths, multiplier of weight_decay); first match wins, all must match
    clip: float | None = None  # global-norm clipping of the gradient
    clip_groups: tuple[tuple[str, float], ...] = ()  # (regular expression over paths, norm): each group by itself
    layer_decay: float = 1.0  # each block learns so much slower than the next (fine-tuning, train/optimizers.py)
    average: float = 0.0  # decay of a running average of the weights, kept for evaluation; 0: none


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, how many at a time, and in which numbers."""

    steps: int = 1000
    sizes: tuple[tuple[int, int], ...] = ()  # progressive resolution: (from step, image size); (): method.image_size
    batch: int = 256  # global: over all devices and microbatches
    microbatches: int = 1  # the batch runs in this many parts (gradient accumulation)
    seed: int = 0
    init: str | None = None  # weights to start from: a workdir, or a weights file (docs/weights.md)
    precision: Literal["float32", "bfloat16"] = "float32"  # of compute; master weights are always float32
    fp8: bool = False  # the blocks' linear layers multiply in float8 (H100, H200)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When the state is saved and what is kept."""

    every: int = 1000  # steps; the last step is always saved
    keep: int = 2  # newest checkpoints kept
    best: str | None = None  # a metric, as "probe/knn": its best checkpoint is kept besides


@dataclasses.dataclass(frozen=True)
class Eval:
    """Probing the encoder, while it trains and at the end."""

    every: int = 0  # steps between online probes; 0: none
    online: tuple[str, ...] = ("knn",)  # of linear, knn, few_shot, five_shot, svm, and health, which needs no labels
    protocols: tuple[str, ...] = ()  # protocols of the table at the end; (): no table
    raw: bool = True  # whether the table has a column for raw pixels
    random: bool = True  # whether the table has a column for the encoder at random initialisation
    pool: Literal["mean", "class", "raw_mean", "sum", "max", "tokens"] = "mean"  # "tokens": each has a label (nodes)
    batch: int = 256
    limit: int | None = None  # samples per split
    knn_k: tuple[int, ...] = (10, 1, 5, 20, 100)  # neighbours; the first is shown, the others are in results_full.json
    knn_temperature: float = 0.07  # of the votes' weights exp(cosine / temperature)
    shots: tuple[int, ...] = (1, 5, 10)  # training samples of each class, for few_shot
    draws: int = 20  # of the shots; the interval is over them
    lidar_samples: int = 1000  # of health: samples, each a class of its own views
    lidar_views: int = 10  # of health: augmented views of each


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Training on labels from pretrained weights: `mae_jax finetune`, and trained protocols of `mae_jax evaluate`.

    Where the default is None, the recipe says (transfer/recipes.py).
    """

    task: Literal["none", "finetune", "segment"] = "none"  # what a run of this config trains
    init: str = ""  # which weights it started from, by name and content: filled in
    classes: int = 0  # filled in from the data
    multilabel: bool = False  # the same: a record may be of several classes
    recipe: str = "auto"  # "auto": by the encoder's width
    labels_per_class: int | None = None  # so many records of each class; None: all. Holds for `evaluate` too
    labels_seed: int = 0  # of their draw; the draw of fewer is part of that of more
    pool: Literal["mean", "class", "normed_mean", "class_max"] | None = None  # what the head reads (finetune.py there)
    head: Literal["linear", "mlp3"] | None = None  # one layer, or three with batch norm and dropout; None: the recipe's
    trained: tuple[str, ...] | None = None  # regular expressions: the encoder's parameters that are trained; None: all
    fresh: tuple[str, ...] = ()  # the same: the encoder's parameters that do not start from the weights
    head_std: float | None = None  # of the head's initial weights
    dropout: float | None = None  # of what the head reads, in training
    epochs: float | None = None
    steps: int | None = None  # in the place of epochs
    warmup: float | None = None  # epochs; with `steps`, a share of them
    batch: int | None = None
    optimizer: str | None = None  # adamw, lamb, ...
    learning_rate: float | None = None  # per 256
    end_rate: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    drop_path: float | None = None
    smoothing: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    erase: float | None = None
    randaugment: str | None = None  # "": none
    crop_scale: tuple[float, float] | None = None
    average: float | None = None
    episode_way: int = 5  # of the protocol "episodes": classes, training and test records of each, number of episodes
    episode_shot: int = 10
    episode_queries: int = 20
    episode_folds: int = 10
    segment_head: Literal["linear", "upernet"] = "linear"  # on the frozen encoder, or with it (docs/segmentation.md)
    segment_size: int | tuple[int, int] | None = None  # of training crops; None: the method's image size
    segment_short: int | None = None  # shorter side to which images are brought first; None: as they are
    segment_scale: tuple[float, float] = (0.5, 2.0)  # of the random resizing before the crop
    segment_max_ratio: float = 0.75  # a crop in which one class has a larger share is drawn again
    segment_photometric: bool = True  # random brightness, contrast, saturation and hue
    segment_inference: Literal["slide", "whole"] = "slide"  # windows of segment_size, or whole images
    segment_stride: int | tuple[int, int] | None = None  # of the windows; None: two thirds of their size
    segment_steps: int | None = None  # None, here and below: the head's recipe says (transfer/segment_plan.py)
    segment_batch: int | None = None
    segment_rate: float | None = None  # as it is, whatever the batch
    segment_weight_decay: float | None = None
    segment_layer_decay: float | None = None
    segment_drop_path: float | None = None
    segment_channels: int = 512  # of UperNet's maps
    segment_auxiliary: float = 0.4  # weight of UperNet's auxiliary loss; 0: no such head
    segment_blocks: tuple[int, ...] = ()  # after which blocks UperNet reads; (): at each quarter of the depth
    probe_augment: bool = True  # random crops, encoded anew at every step; False: features are computed once and held
    probe_crop: tuple[float, float] | None = (0.08, 1.0)  # share of the area of such a crop, by one draw (BYOL's)
    probe_flip: bool | None = None  # mirror half of the images; None: as augment.flip
    probe_memory_gb: float = 16.0  # of features that are held
    probe_seed: int = 0  # of order, crops and the head's initial weights
    probe_pool: Literal["auto", "class", "mean", "raw_mean"] = "auto"  # linear_paper: class token where there is one
    probe_epochs: float = 90.0  # linear_paper
    probe_warmup: float = 10.0  # epochs
    probe_batch: int = 16384  # at most the training set
    probe_learning_rate: float = 0.1  # per 256
    probe_weight_decay: float = 0.0
    probe_momentum: float = 0.9
    probe_trust: float = 0.001  # LARS
    probe_attentive_epochs: float = 20.0  # attentive
    probe_attentive_warmup: float = 2.0
    probe_attentive_batch: int = 1024
    probe_attentive_learning_rate: float = 5e-4  # per 256
    probe_attentive_weight_decay: float = 0.05
    probe_attentive_heads: int = 0  # of the query's attention; 0: one per 64 channels
    probe_prototypes: int = 20  # prototypes: of each class
    probe_prototype_epochs: float = 30.0
    probe_prototype_warmup: float = 0.067  # share of the steps
    probe_prototype_batch: int = 64
    probe_prototype_rate: float = 0.04  # of the prototypes, as it is, whatever the batch
    probe_prototype_last_rate: float = 4e-4  # of the layer from similarities to logits
    probe_prototype_weight_decay: float = 3e-4  # of the prototypes; of that layer a third (1e-4)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the computation is laid out; changes no result, but for rounding."""

    data: int = -1  # devices along the data axis; -1: what is left
    fsdp: int = 1  # devices along the axis that splits parameters and optimizer state
    tensor: int = 1  # devices along the axis that splits the matrices of blocks, and attention by heads
    slices: int = 0  # groups of devices with a slow network (DCN) between them; 0: as the devices say; 1: one of all
    across: Literal["data", "fsdp"] = "data"  # the axis that crosses from slice to slice
    gather: Literal["auto", "layer", "step"] = "auto"  # fsdp: when weights are made whole; auto: step if microbatches
    reduce: Literal["float32", "bfloat16"] = "float32"  # in what the gradient travels between devices
    scan: bool = False  # run equal blocks as a loop: compiles faster, needs more memory
    remat: Literal["none", "dots", "full", "offload"] = "none"  # what the backward pass computes again (docs/speed.md)
    attention: Attention = "auto"  # what computes it (docs/speed.md); "auto": by the chip
    norm: Norm = "auto"  # the blocks' layer norms: XLA's, or one GPU kernel; "auto": by the chip


@dataclasses.dataclass(frozen=True)
class Log:
    """What is written while a run goes on."""

    every: int = 50  # steps
    norms: Literal["none", "parts"] = "parts"  # log grad_norm/PART and update_norm/PART, PART as "encoder/blocks"
    pictures_every: int = 0  # steps between reconstruction pictures; 0: only at the end
    pictures: int = 8  # images in a picture; 0: no pictures
    tensorboard: bool = True
    wandb: str | None = None  # Weights & Biases project; None: off


@dataclasses.dataclass(frozen=True)
class Guard:
    """What happens when numbers go wrong, a step hangs or a process is lost (docs/reliability.md)."""

    skips: int = 10  # updates skipped in a row after which the run goes back to a checkpoint, with other batches
    rollbacks: int = 3  # so many times without getting past the place, then it is given up
    spike: float = 0.0  # a loss above so many times the running median is skipped like a NaN; 0: off
    spike_window: int = 64  # steps of which that median is
    parity: int = 1000  # steps between comparisons of the copies of the weights on all devices; 0: none
    hang_factor: float = 20.0  # a step hangs after so many times the median: all stacks are written; 0: never
    hang_floor: float = 120.0  # seconds that are no hang in any case
    hang_exit: float = 1800.0  # seconds after that at which the process ends, to be started again; 0: never
    heartbeat: float = 60.0  # seconds of silence after which a process of several counts as lost


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run, resolved and checked."""

    method: Mapping[str, Any]  # {"name": ..., **the method's fields}
    data: Data
    augment: Augment
    optim: Optim
    train: Train
    checkpoint: Checkpoint
    eval: Eval
    transfer: Transfer
    mesh: MeshConfig
    log: Log
    guard: Guard

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, as a user would write them; JSON turns tuples into lists and back is `resolve`."""
        sections = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "method"}
        plain = {name: dataclasses.asdict(section) for name, section in sections.items()}
        return {"method": dict(self.method)} | {k: keys | keys.pop("options", {}) for k, keys in plain.items()}


SECTIONS: dict[str, type] = {
    "data": Data, "augment": Augment, "optim": Optim, "train": Train, "checkpoint": Checkpoint, "eval": Eval,
    "transfer": Transfer, "mesh": MeshConfig, "log": Log, "guard": Guard,
}  # fmt: skip
