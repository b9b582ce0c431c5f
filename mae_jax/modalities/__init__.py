"""Kinds of leaves besides images, each in a file of its own, found by the file's name. docs/adding-a-modality.md"""

import functools
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from mae_jax.methods.base import Leaf, config_fields
from mae_jax.modalities.base import Modality
from mae_jax.schema import Augment

__all__ = ["Modality", "defaults", "find", "get", "keeps", "kept", "kind_of", "kinds", "read_by", "tuned", "types"]


@functools.cache
def kinds() -> tuple[str, ...]:
    """Every kind, without importing any."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base"))


@functools.cache
def get(kind: str) -> type[Modality]:
    """The class of a kind: the one in its file whose `kind` is the file's name."""
    module = importlib.import_module(f"{__name__}.{kind}")
    (found,) = (x for x in vars(module).values() if inspect.isclass(x) and issubclass(x, Modality) and _kind(x) == kind)
    return found


def _kind(cls: type) -> str:
    return getattr(cls, "kind", "")


def kind_of(name: str) -> str | None:
    """The kind of a leaf, or of a key of config.augment, by its name; None: an image, or an array taken as it is."""
    return next((kind for kind in kinds() if name == kind or name.startswith(kind + "_")), None)


def find(name: str, augment: Augment) -> Modality | None:
    """What the leaf of this name goes through, as `augment` says; None: an image, or an array taken as it is."""
    kind = kind_of(name)
    if kind is None:
        return None
    own = {key.removeprefix(kind + "_"): x for key, x in augment.options.items() if kind_of(key) == kind}
    return get(kind)(**own, augment=augment)


def keeps(key: str) -> bool:
    """Whether probes and fine-tuning take this key of config.augment over from pretraining."""
    kind = kind_of(key)
    return kind is not None and key.removeprefix(kind + "_") in get(kind).kept


def kept(augment: Augment) -> dict[str, Any]:
    """Of a pretraining's `augment.options` what probes and fine-tuning take over."""
    return {key: x for key, x in augment.options.items() if keeps(key)}


def tuned(augment: Augment) -> dict[str, Any]:
    """The keys that fine-tuning trains with, for the kinds in a pretraining's `augment.options`."""
    which = sorted({kind for key in augment.options if (kind := kind_of(key))})
    return kept(augment) | {f"{kind}_{name}": x for kind in which for name, x in get(kind).tuned.items()}


def read_by(spec: Mapping[str, Leaf]) -> list[str]:
    """The kinds of a method's leaves."""
    return sorted({kind for kind in map(kind_of, spec) if kind is not None})


def types() -> dict[str, Any]:
    """{key of config.augment: its type} of all kinds."""
    found: dict[str, Any] = {}
    for kind in kinds():
        hints = typing.get_type_hints(get(kind))
        found |= {f"{kind}_{name}": hints[name] for name in config_fields(get(kind))}
    return found


def defaults(which: Iterable[str] | None = None) -> dict[str, Any]:
    """{key of config.augment: its default} of some kinds; None: of all."""
    return {
        f"{kind}_{name}": field.default
        for kind in (kinds() if which is None else which)
        for name, field in config_fields(get(kind)).items()
    }
