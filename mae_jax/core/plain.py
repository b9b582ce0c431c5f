"""JSON from anywhere: bounded in size and depth, no name twice."""

import json
from pathlib import Path
from typing import Any

from mae_jax.core.errors import UserError

MAX_JSON = 16 << 20  # bytes


def loads(text: bytes | str, limit: int = MAX_JSON) -> Any:
    """`json.loads`, which raises ValueError alone: too long, too deep, a key twice, no JSON."""
    if len(text) > limit:
        raise ValueError(f"it has {len(text):,} bytes of JSON; at most {limit:,} are read")
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def read_json(path: Path, limit: int = MAX_JSON) -> Any:
    """The content of a JSON file.

    Raises:
      UserError: no such file, or what `loads` refuses.
    """
    try:
        with path.open("rb") as file:
            return loads(file.read(limit + 1), limit)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON that can be read: {error}. Is it whole?") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"its key '{name[:80]}' is there twice")
        found[name] = value
    return found
