"""One file per published system. A file's name is the method's name in configs."""

import importlib
import pkgutil

from mae_jax.core.errors import UserError, nearest
from mae_jax.methods.base import Method


def names() -> list[str]:
    """Every method, without importing any."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")


def get(name: str) -> type[Method]:
    """The class of a method.

    Raises:
      UserError: no such method.
    """
    if name not in names():
        raise UserError(f"unknown method '{name}'. {nearest(name, names())} `mae_jax list` shows all.")
    module = importlib.import_module(f"{__name__}.{name}")
    (cls,) = (
        c for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module.__name__ and c.__dict__.get("name")
    )  # fmt: skip
    return cls
