"""One file per published system; a file's name is the method's name in configs. Users' own: by file or module.

What a config's method.name may be:

    "mae"                       a file of this folder, or what an installed package offers under this name
                                (entry-point group "mae_jax.methods")
    "path/to/file.py[:Class]"   a Python file anywhere
    "package.module[:Class]"    a module that Python can import

The last two are code. A config that is data (a run's config.json, a weights file) may name them as well; they are run
then only if the user ran them before or names them anew (`check_known`).
"""

import functools
import hashlib
import importlib
import importlib.metadata
import os
import pkgutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mae_jax.core.errors import UserError, nearest
from mae_jax.core.modules import run_file
from mae_jax.methods.base import Method

GROUP = "mae_jax.methods"


def names() -> list[str]:
    """Every method of this package, without importing any."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def offered() -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages offer, by name, without importing any. Names of this package's own are passed over."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP) if point.name not in names()}


def get(name: str) -> type[Method]:
    """The class of a method.

    Args:
      name: see the module's text.

    Raises:
      UserError: no such method, file, module or class.
    """
    place, _, wanted = name.partition(":")
    if is_file(name) or "." in place:
        found = _from_file(Path(place).expanduser().absolute()) if is_file(name) else _imported(place)
        _remember(name)
        return _class(found, name, wanted)
    if name in names():
        return _class(importlib.import_module(f"{__name__}.{name}"), name, "")
    if name in (points := offered()):
        offer = points[name].load()
        return _class(offer, name, "") if isinstance(offer, ModuleType) else _checked(offer, name)
    raise UserError(
        f"unknown method '{name}'. {nearest(name, [*names(), *points])} `mae_jax list` shows all; a method of your own "
        f"is named by its file, as method.name=path/to/file.py."
    )


def is_file(name: str) -> bool:
    """Whether a method.name means a file rather than a module or a method of this package."""
    place = name.partition(":")[0]
    return place.endswith(".py") or "/" in place


def check_known(config: Any, where: str, overrides: Sequence[str] = ()) -> None:
    """Raise UserError where a config that is data names a method that is code, and nobody has said that it may run.

    It may where it ran before: the same file with the same content, or the same module, for the same user on the same
    machine (`_ran`); or where an override names it.

    Args:
      config: a nested dict; whatever else it is, others complain of. where: what names it in messages.
    """
    section = config.get("method") if isinstance(config, Mapping) else None
    name = section.get("name") if isinstance(section, Mapping) else None
    if not isinstance(name, str) or not (is_file(name) or "." in name) or _identity(name) in _ran():
        return
    if not any(text.startswith("method.name=") for text in overrides):
        raise UserError(
            f"{where} names the method '{name}', which is Python code, and as it is now it never ran here: a config "
            f"that is data starts no code. Read that code; if it may run, name it yourself: --config.method.name={name}"
        )


def _identity(name: str) -> str:
    """Of code: a file by its place and content, a module by its name."""
    place = name.partition(":")[0]
    if not is_file(name):
        return f"module {place}"
    path = Path(place).expanduser().absolute()
    content = path.read_bytes() if path.is_file() and path.stat().st_size < 1 << 24 else b""
    return hashlib.sha256(bytes(path) + b"\0" + content).hexdigest()


def _known_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mae_jax" / "methods_that_ran.txt"


def _ran() -> set[str]:
    try:
        return {*_this_process, *_known_file().read_text().splitlines()}
    except (OSError, ValueError):
        return _this_process


def _remember(name: str) -> None:
    identity = _identity(name)
    if identity in _ran():
        return
    _this_process.add(identity)
    try:
        _known_file().parent.mkdir(parents=True, exist_ok=True)
        with _known_file().open("a") as file:
            file.write(identity + "\n")
    except OSError:
        pass  # then it must be named each time


_this_process: set[str] = set()


def settled(name: str) -> str:
    """`name` as a resolved config records it: a file by its absolute path, so that it is found from anywhere."""
    if not is_file(name):
        return name
    place, colon, wanted = name.partition(":")
    return f"{Path(place).expanduser().absolute()}{colon}{wanted}"


def _class(module: ModuleType, name: str, wanted: str) -> type[Method]:
    """The class that `wanted` names, or the only one that the module defines."""
    own = [
        c for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module.__name__ and c.__dict__.get("name")
    ]  # fmt: skip
    if wanted:
        if not hasattr(module, wanted):
            there = nearest(wanted, [c.__name__ for c in own]) or "It defines no method."
            raise UserError(f"method.name='{name}': there is no '{wanted}' in it. {there}")
        return _checked(getattr(module, wanted), name)
    if len(own) != 1:
        found = f"defines {', '.join(c.__name__ for c in own)}; name one, as '{name}:{own[0].__name__}'" if own else (
            "defines no method: a frozen dataclass that derives from mae_jax.methods.base.Method and has a "
            "`name: ClassVar[str]`"
        )  # fmt: skip
        raise UserError(f"method.name='{name}': this module {found}.")
    return own[0]


def _checked(found: Any, name: str) -> type[Method]:
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(
            f"method.name='{name}' is {found!r}, which is no class derived from mae_jax.methods.base.Method."
        )
    return found


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"method.name: there is no file {path}. {nearest(str(path), near)}")
    return _run(path, path.stat().st_mtime_ns)


@functools.lru_cache
def _run(path: Path, changed: int) -> ModuleType:
    """The file as a module, once for each time that it was changed: one file gives one class."""
    return run_file(path, f"mae_jax_method_{path.stem}_{zlib.crc32(bytes(path)):08x}", keep=True)


def _imported(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # the module is there, what it imports is not
        raise UserError(
            f"method.name='{place}': Python finds no module '{error.name}'. Install its package (`pip install -e`), "
            f"set PYTHONPATH to the folder that holds it, or name the file, as method.name=path/to/file.py."
        ) from None
