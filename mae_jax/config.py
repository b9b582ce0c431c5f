"""What a run is made of: a typed schema, and how a config file and command-line overrides fill it.

A config file has a docstring and `get_config(arg="") -> ml_collections.ConfigDict` with the sections below; whatever
it leaves out has the default given here. `method` and `data` also take the fields of the method and of the source
that they name. Everything is checked before any device is touched.
"""

import ast
import dataclasses
import importlib.util
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_collections

from mae_jax.core.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Data:
    """Where samples come from; the named source adds its own fields."""

    source: str = "folder"
    train_split: str = "train"  # which records train: "train", "train[:90%]", "train+test", "train[1000:]"
    test_split: str = "test"  # which records are probed and drawn
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
    volume_crop: float | None = None  # cut volumes out of larger ones; share of crops about a voxel that is not 0
    volume_flip: float = 0.0  # probability, along each axis
    volume_turn: float = 0.0  # probability of 1, 2 or 3 quarter turns in the plane of the first two axes
    volume_scale: tuple[float, float] = (0.0, 0.0)  # (s, probability): intensities times 1 + U(-s, s)
    volume_shift: tuple[float, float] = (0.0, 0.0)  # (s, probability): intensities plus U(-s, s)


@dataclasses.dataclass(frozen=True)
class Optim:
    """Optimizer and learning rate. Defaults: MAE's pretraining recipe."""

    name: str = "adamw"  # adamw, adam (weight decay inside the gradient), lamb, lars, sgd
    learning_rate: float = 1.5e-4  # before `scaling`
    scaling: Literal["linear", "sqrt", "none"] = "linear"  # peak = learning_rate * batch / 256 | sqrt(batch) / 4 | 1
    schedule: Literal["cosine", "cosine_inclusive", "constant"] = "cosine"  # after warm-up (train/schedules.py)
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
    average: float = 0.0  # decay of a running average of the weights, kept for evaluation; 0: none


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, how many at a time, and in which numbers."""

    steps: int = 1000
    sizes: tuple[tuple[int, int], ...] = ()  # progressive resolution: (from step, image size); (): method.image_size
    batch: int = 256  # global: over all devices and microbatches
    microbatches: int = 1  # the batch runs in this many parts (gradient accumulation)
    seed: int = 0
    init: str | None = None  # a workdir whose weights training starts from
    precision: Literal["float32", "bfloat16"] = "float32"  # of compute; master weights are always float32


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
    online: tuple[str, ...] = ("knn",)  # protocols of the online probe: linear, knn, five_shot, svm
    protocols: tuple[str, ...] = ()  # protocols of the table at the end; (): no table
    raw: bool = True  # whether the table has a column for raw pixels
    pool: Literal["mean", "class", "raw_mean", "sum", "max", "tokens"] = "mean"  # "tokens": each has a label (nodes)
    batch: int = 256
    limit: int | None = None  # samples per split


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the computation is laid out; changes no result."""

    data: int = -1  # devices along the data axis; -1: what is left
    fsdp: int = 1  # devices along the axis that splits parameters and optimizer state
    scan: bool = False  # run equal blocks as a loop: compiles faster, needs more memory
    remat: Literal["none", "dots", "full"] = "none"  # what the backward pass computes again


@dataclasses.dataclass(frozen=True)
class Log:
    """What is written while a run goes on."""

    every: int = 50  # steps
    pictures_every: int = 0  # steps between reconstruction pictures; 0: only at the end
    pictures: int = 8  # images in a picture
    tensorboard: bool = True
    wandb: str | None = None  # Weights & Biases project; None: off


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
    mesh: MeshConfig
    log: Log

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, as a user would write them; JSON turns tuples into lists and back is `resolve`."""
        data = dataclasses.asdict(self.data)
        options = data.pop("options")
        sections = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {k: dataclasses.asdict(v) for k, v in sections.items() if k not in ("method", "data")}
        return {"method": dict(self.method), "data": data | options} | plain


SECTIONS: dict[str, type] = {
    "data": Data, "augment": Augment, "optim": Optim, "train": Train, "checkpoint": Checkpoint, "eval": Eval,
    "mesh": MeshConfig, "log": Log,
}  # fmt: skip


def load(spec: str) -> tuple[dict[str, Any], str]:
    """Run a config file, "path/to/file.py" or "path/to/file.py:argument" -> (nested dict, its docstring)."""
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        near = [str(p) for p in Path("configs").rglob("*.py")] if Path("configs").is_dir() else []
        raise UserError(f"no config file '{path}' (looked from {Path.cwd()}). {nearest(path, near)}")
    module_spec = importlib.util.spec_from_file_location("mae_jax_config", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"'{path}' is not a Python file; a config is a .py file with a function get_config(arg='').")
    module = importlib.util.module_from_spec(module_spec)
    before, folder = set(sys.modules), str(Path(path).resolve().parent)
    sys.path.insert(0, folder)  # a config may import what its neighbours share
    try:
        module_spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"'{path}' is no valid Python: {error.msg} (line {error.lineno}).") from None
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:  # another folder's neighbour may have the same name
            if str(Path(getattr(sys.modules[name], "__file__", None) or "").parent) == folder:
                del sys.modules[name]
    if not hasattr(module, "get_config"):
        raise UserError(f"'{path}' has no function get_config(arg=''), so it is no config file.")
    try:
        config = module.get_config(argument) if argument else module.get_config()
    except (TypeError, ValueError) as error:
        if not argument:
            raise  # the file's own fault: its author needs the trace
        raise UserError(f"get_config of '{path}' cannot use the argument '{argument}': {error}.") from error
    if not isinstance(config, Mapping | ml_collections.ConfigDict):
        raise UserError(f"get_config of '{path}' gave a {type(config).__name__}; expected a ConfigDict.")
    return ml_collections.ConfigDict(config).to_dict(), (module.__doc__ or "").strip()


def resolve(raw: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Fill defaults, apply "section.key=value" overrides and check names and types.

    Raises:
      UserError: an unknown key (names the nearest), a value of the wrong type, an unknown method or source.
    """
    values = _sections(raw)
    parsed = [_parse(text) for text in overrides]
    for key, text in parsed:  # these two decide which further keys exist
        if key in ("method.name", "data.source"):
            section, name = key.split(".")
            values.setdefault(section, {})[name] = text
    schema, defaults, options = _schema(values)
    known = [f"{section}.{key}" for section, keys in schema.items() for key in keys]
    for key, text in parsed:
        if key not in known:
            raise UserError(f"unknown config key '{key}'. {nearest(key, known)}")
        section, name = key.split(".")
        values.setdefault(section, {})[name] = _literal(text, schema[section][name])
    for section, keys in values.items():
        for key, value in keys.items():
            if key not in schema[section]:
                raise UserError(f"unknown config key '{section}.{key}'. {nearest(f'{section}.{key}', known)}")
            keys[key] = _coerce(value, schema[section][key], f"{section}.{key}")
    data = values.pop("data", {})
    own = {key: data.pop(key) for key in list(data) if key not in Data.__dataclass_fields__}
    sections = {name: cls(**values.get(name, {})) for name, cls in SECTIONS.items() if name != "data"}
    config = Config(method=defaults | values["method"], data=Data(**data, options=options | own), **sections)
    _check_values(config)
    return config


def _sections(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A copy of the sections, all of them known."""
    for name, section in raw.items():
        if name not in ("method", *SECTIONS):
            raise UserError(f"unknown config section '{name}'. {nearest(name, ['method', *SECTIONS])}")
        if not isinstance(section, Mapping):
            raise UserError(f"config section '{name}' is {section!r}; expected keys and values, as {name}=dict(...).")
    return {name: dict(section) for name, section in raw.items()}


def _schema(
    values: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """({section: {key: type}}, defaults of the method's fields, defaults of the source's), as the two names say."""
    from mae_jax import methods
    from mae_jax.data.sources import SOURCES
    from mae_jax.methods.base import config_fields

    if "name" not in values.get("method", {}):
        raise UserError("the config names no method: set method.name. `mae_jax list` shows all.")
    method = methods.get(_coerce(values["method"]["name"], str, "method.name"))
    name = _coerce(values.get("data", {}).get("source", Data.source), str, "data.source")
    if name not in SOURCES:
        raise UserError(f"unknown data.source '{name}'. {nearest(name, SOURCES)}")
    source = SOURCES[name]
    schema = {section: _types(cls, config_fields(cls)) for section, cls in SECTIONS.items()}
    schema["method"] = {"name": str} | _types(method, config_fields(method))
    del schema["data"]["options"]
    schema["data"] |= _types(source, config_fields(source))
    defaults, options = (
        {k: f.default for k, f in config_fields(cls).items() if f.default is not dataclasses.MISSING}
        for cls in (method, source)
    )
    return schema, defaults, options


FREE_DATA = ("workers", "memory_mb", "max_bad")  # what changes no batch


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys in which two resolved configs differ in a way that would change the run, "key: old -> new".

    A resumed run may change log, checkpoint, eval, mesh and what changes no batch (FREE_DATA), and train for longer.
    """
    old, new = (json.loads(json.dumps(config)) for config in (old, new))  # tuples read like the lists in a file
    found = []
    for section in sorted({*old, *new} - {"log", "checkpoint", "eval", "mesh"}):
        a, b = old.get(section, {}), new.get(section, {})
        for key in sorted({*a, *b}):
            free = section == "data" and key in FREE_DATA
            longer = (section, key) == ("train", "steps") and b.get(key, 0) >= a.get(key, 0)
            if a.get(key) != b.get(key) and not free and not longer:
                found.append(f"{section}.{key}: {a.get(key)!r} -> {b.get(key)!r}")
    return found


def make_method(config: Config):
    """The method object of a config, checked.

    Raises:
      UserError: fields that do not fit each other.
    """
    from mae_jax import methods
    from mae_jax.nets.compute import PRECISIONS, Compute

    fields = {k: v for k, v in config.method.items() if k != "name"}
    compute = Compute(PRECISIONS[config.train.precision], config.mesh.scan, config.mesh.remat)
    method = methods.get(config.method["name"])(**fields, compute=compute)
    method.check()
    return method


def _check_values(config: Config) -> None:
    """Numbers that no run could use."""
    train = config.train
    for key, value in (("steps", train.steps), ("batch", train.batch), ("microbatches", train.microbatches)):
        if value < 1:
            raise UserError(f"train.{key} is {value}; expected at least 1.")
    if train.batch % train.microbatches:
        raise UserError(
            f"train.microbatches={train.microbatches} does not divide train.batch={train.batch}; each part of the "
            f"batch must have the same size."
        )
    if config.optim.warmup > train.steps:
        raise UserError(f"optim.warmup={config.optim.warmup} steps is longer than train.steps={train.steps}.")
    if any(s <= 0 for s in config.augment.std):
        raise UserError(f"augment.std={config.augment.std} must be positive in every channel.")


def _types(cls: type, fields: Mapping[str, dataclasses.Field]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {name: hints[name] for name in fields}


def _parse(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"override '{text}' has no value; write --config.section.key=value.")
    return key, value


def _literal(text: str, kind: Any) -> Any:
    """A command-line value: Python syntax, or else the text itself."""
    if kind is str:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _coerce(value: Any, kind: Any, key: str) -> Any:
    """`value` as `kind`, where that loses nothing (int -> float, list -> tuple); else UserError."""
    try:
        return _convert(value, kind)
    except TypeError:
        name = getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind).replace("typing.", "")
        raise UserError(f"config key '{key}' is {value!r} ({type(value).__name__}); expected {name}.") from None


def _convert(value: Any, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return _convert(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if value in args:
            return value
        raise TypeError
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        if args[-1] is Ellipsis:
            args = args[:1] * len(value)
        if len(args) != len(value):
            raise TypeError
        return tuple(_convert(v, a) for v, a in zip(value, args))
    if kind is type(None):
        if value is None:
            return None
        raise TypeError
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    raise TypeError
