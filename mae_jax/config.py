"""From a config file and command-line overrides to a `Config` (schema.py), filled and checked.

A config file is a .py, which is code: it has a docstring and `get_config(arg="") -> ml_collections.ConfigDict` with the
sections below. Or it is a .json, as a run's config.json, which is data: nothing runs, not even a method that it names
and that is code, unless the user ran that before (methods.check_known). Whatever a file leaves out has its default.
`method` and `data` also take the fields of the method and of the source
that they name. Everything is checked before any device is touched.
"""

import ast
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_collections

from mae_jax.core.errors import UserError, nearest
from mae_jax.core.modules import run_file
from mae_jax.core.plain import read_json
from mae_jax.schema import SECTIONS, Config, Data


def load(spec: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """A config file -> (nested dict, its docstring).

    Args:
      spec: "path/to/file.py" or "path/to/file.py:argument", which is run, or "path/to/file.json", which is read.
      overrides: of this command; a method of the user's own that they name may run.
    """
    path, _, argument = spec.partition(":")
    if not Path(path).is_file():
        near = [str(p) for p in Path("configs").rglob("*.py")] if Path("configs").is_dir() else []
        raise UserError(f"no config file '{path}' (looked from {Path.cwd()}). {nearest(path, near)}")
    if path.endswith(".json"):
        return _data(Path(path), argument, overrides), ""
    module = run_file(path, "mae_jax_config")
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


def _data(path: Path, argument: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config in a .json."""
    from mae_jax import methods

    if argument:
        raise UserError(f"'{path}' is data and takes no argument: leave out ':{argument}', and override single keys.")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise UserError(f"'{path}' holds no config: an object of the sections method, data, ... expected.")
    methods.check_known(raw, f"'{path}'", overrides)
    return raw


def resolve(raw: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Fill defaults, apply "section.key=value" overrides and check names and types.

    Raises:
      UserError: an unknown key (names the nearest), a value of the wrong type, an unknown method or source.
    """
    from mae_jax import methods

    values = _sections(raw)
    parsed = [_parse(text) for text in overrides]
    for key, text in parsed:  # these two decide which further keys exist
        if key in ("method.name", "data.source"):
            section, name = key.split(".")
            if key == "data.source":
                _leave(values.setdefault("data", {}), text)
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
    values["method"]["name"] = methods.settled(values["method"]["name"])
    method = defaults | values.pop("method")
    options["augment"] = _of_modalities(method)
    sections = {}
    for name, cls in SECTIONS.items():
        keys = values.get(name, {})
        if name in options:  # the source's fields, and the modalities'
            shared = {field.name for field in dataclasses.fields(cls)}
            own = {key: keys.pop(key) for key in list(keys) if key not in shared}
            keys = keys | {"options": options[name] | own}
        sections[name] = cls(**keys)
    config = Config(method=method, **sections)
    _check_values(config)
    return config


def _of_modalities(method: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of config.augment's keys for the kinds of leaves that a method reads."""
    from mae_jax import methods, modalities

    made = methods.get(method["name"])(**{key: x for key, x in method.items() if key != "name"})
    return modalities.defaults(modalities.read_by(made.batch_spec))


def _leave(data: dict[str, Any], source: str) -> None:
    """Drop from a file's data section what belongs to its own source alone, when an override names another."""
    from mae_jax.data.sources import SOURCES
    from mae_jax.methods.base import config_fields

    old = data.get("source", Data.source)
    if old in SOURCES and source in SOURCES:
        for key in set(config_fields(SOURCES[old])) - set(config_fields(SOURCES[source])):
            data.pop(key, None)


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
    """({section: {key: type}}, defaults of the method's fields, {"data": of the source's}), as the two names say."""
    from mae_jax import methods, modalities
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
    del schema["data"]["options"], schema["augment"]["options"]
    schema["augment"] |= modalities.types()
    schema["data"] |= _types(source, config_fields(source))
    defaults, options = (
        {k: f.default for k, f in config_fields(cls).items() if f.default is not dataclasses.MISSING}
        for cls in (method, source)
    )
    return schema, defaults, {"data": options}


# What changes no batch; whether other data lie at a path, their fingerprint tells (data/pipeline.py).
FREE_DATA = ("workers", "memory_mb", "max_bad", "path")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys in which two resolved configs differ in a way that would change the run, "key: old -> new".

    A resumed run may change log, checkpoint, eval, mesh, guard and what changes no batch (FREE_DATA), and train for
    longer. A method's file may have moved; a pretraining run reads nothing of transfer.
    """
    old, new = (json.loads(json.dumps(config)) for config in (old, new))  # tuples read like the lists in a file
    found = []
    free_sections = {"log", "checkpoint", "eval", "mesh", "guard"}
    if {config.get("transfer", {}).get("task", "none") for config in (old, new)} == {"none"}:
        free_sections.add("transfer")
    for section in sorted({*old, *new} - free_sections):
        a, b = old.get(section, {}), new.get(section, {})
        for key in sorted({*a, *b}):
            free = section == "data" and key in FREE_DATA
            moved = (section, key) == ("method", "name") and Path(a.get(key, "")).name == Path(b.get(key, "")).name
            longer = (section, key) == ("train", "steps") and b.get(key, 0) >= a.get(key, 0)
            if a.get(key) != b.get(key) and not (free or moved or longer):
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
    drop_path = config.transfer.drop_path if config.transfer.task != "none" else None
    m, train = config.mesh, config.train
    compute = Compute(PRECISIONS[train.precision], m.scan, m.remat, drop_path or 0.0, m.attention, m.norm, train.fp8)
    method = methods.get(config.method["name"])(**fields, compute=compute)
    method.check()
    return method


# {what is expected: (whether a number is that, the keys)}; a NaN is nothing of this, and None is off.
LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "at least 1": (
        lambda x: x >= 1, "train.steps train.batch train.microbatches log.every checkpoint.every",
    ),
    "a finite number, 0 or above": (
        lambda x: 0 <= x < math.inf,
        "optim.learning_rate optim.warmup optim.warmup_start optim.end_rate optim.end_share optim.eps optim.trust "
        "optim.weight_decay optim.weight_decay_end optim.clip",
    ),
    "at least 0 and below 1": (lambda x: 0 <= x < 1, "optim.b1 optim.b2 optim.momentum optim.average"),
    "a finite number above 0": (lambda x: 0 < x < math.inf, "optim.layer_decay"),
}  # fmt: skip


def _check_values(config: Config) -> None:
    """Numbers that no run could use."""
    train = config.train
    for what, (fits, keys) in LIMITS.items():
        for section, name in (key.split(".") for key in keys.split()):
            value = getattr(getattr(config, section), name)
            if value is not None and not fits(value):
                raise UserError(f"{section}.{name} is {value:g}; expected {what}.")
    optim = config.optim
    for key, rules in (("decay_rules", optim.decay_rules), ("clip_groups", optim.clip_groups)):
        for pattern, _ in rules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"optim.{key}: {pattern!r} is no regular expression: {error}.") from error
    if train.batch % train.microbatches:
        raise UserError(
            f"train.microbatches={train.microbatches} does not divide train.batch={train.batch}; each part of the "
            f"batch must have the same size."
        )
    if optim.warmup > train.steps:
        raise UserError(f"optim.warmup={optim.warmup} steps is longer than train.steps={train.steps}.")
    guard = config.guard
    if guard.skips < 1 or guard.rollbacks < 0 or guard.spike_window < 8 or guard.heartbeat < 1:
        raise UserError(
            f"guard.skips={guard.skips}, guard.rollbacks={guard.rollbacks}, guard.spike_window={guard.spike_window}, "
            f"guard.heartbeat={guard.heartbeat:g}: at least 1, 0, 8 and 1 expected."
        )
    for key in ("spike", "hang_factor"):
        if 0 < (value := getattr(guard, key)) <= 1 or value < 0:
            raise UserError(f"guard.{key}={value:g} times the median: a factor above 1 expected, or 0 for off.")
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
    if kind is str or (typing.get_origin(kind) is Literal and text in typing.get_args(kind)):
        return text  # "none" is a choice of mesh.remat, not None
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
