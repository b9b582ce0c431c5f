"""Official constructor arguments, read strictly: one that ours does not understand is an error."""

from collections.abc import Collection, Mapping
from typing import Any

from mae_jax.core.errors import UserError, nearest

REQUIRED: Any = object()


def options(
    config: Mapping[str, Any],
    known: Mapping[str, Any],
    *,
    what: str,
    only: Mapping[str, Collection[Any]] | None = None,
    inert: Collection[str] = (),
) -> dict[str, Any]:
    """Return every argument of `known` with its value from `config` or its default.

    Args:
      config: the official constructor's arguments.
      known: {argument: default}; REQUIRED where there is none.
      what: the class, for messages.
      only: {argument: the values that ours covers}, for arguments that may be given but not chosen.
      inert: arguments without effect on what is compared (dropout rates in eval mode, initialisation).
    Raises:
      UserError: an argument unknown, missing, or of a value that ours does not cover.
    """
    only = only or {}
    names = {*known, *only, *inert}
    for name, value in config.items():
        if name not in names:
            raise UserError(
                f"{what} takes an argument '{name}' (= {value!r}) that has no counterpart here. {nearest(name, names)}"
            )
        if name in only and value not in only[name]:
            covered = " or ".join(map(repr, only[name]))
            raise UserError(f"{what} with {name}={value!r} has no counterpart here; it must be {covered}.")
    missing = [name for name, default in known.items() if default is REQUIRED and name not in config]
    if missing:
        raise UserError(f"{what} needs the argument{'s' * (len(missing) > 1)} {', '.join(missing)}.")
    return {name: config.get(name, default) for name, default in known.items()}
