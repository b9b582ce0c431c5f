"""One file per published system; a file's name is the method's name in configs. Users' own: by file or module.

What a config's method.name may be:

    "mae"                       a file of this folder, or what an installed package offers under this name
                                (entry-point group "mae_jax.methods")
    "path/to/file.py[:Class]"   a Python file anywhere
    "package.module[:Class]"    a module that Python can import
"""

import functools
import importlib
import importlib.metadata
import pkgutil
import zlib
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
    if is_file(name):
        return _class(_from_file(Path(place).expanduser().absolute()), name, wanted)
    if "." in place:
        return _class(_imported(place), name, wanted)
    if name in names():
        return _class(importlib.import_module(f"{__name__}.{name}"), name, "")
    if name in (points := offered()):
        found = points[name].load()
        return _class(found, name, "") if isinstance(found, ModuleType) else _checked(found, name)
    raise UserError(
        f"unknown method '{name}'. {nearest(name, [*names(), *points])} `mae_jax list` shows all; a method of your own "
        f"is named by its file, as method.name=path/to/file.py."
    )


def is_file(name: str) -> bool:
    """Whether a method.name means a file rather than a module or a method of this package."""
    place = name.partition(":")[0]
    return place.endswith(".py") or "/" in place


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
