"""What the families share: where a file lies, whether it is the one that was meant, and a tower's template."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.errors import UserError
from mae_jax.interop.files import read_tensors
from mae_jax.interop.names import Rules, import_weights
from mae_jax.methods.base import FrozenSpec
from mae_jax.nets import tower

BUNDLED = Path(__file__).parent / "bundled"
Tensors = Mapping[str, np.ndarray]


def find(spec: FrozenSpec) -> Path:
    """The path of a spec's file; "bundled/NAME" is one that comes with the package."""
    path = BUNDLED / spec.file.removeprefix("bundled/") if spec.file.startswith("bundled/") else Path(spec.file)
    if not path.exists():
        raise UserError(f"the frozen '{spec.family}' network's weights are not at '{path}' (looked from {Path.cwd()}).")
    return path


def check_hash(spec: FrozenSpec, found: str) -> str:
    """`found`, if it is what the spec expects."""
    if spec.sha256 and spec.sha256 != found:
        raise UserError(
            f"'{spec.file}' is not the file that the config means: its sha256 is {found}, expected {spec.sha256}. "
            f"Get that file, or set the hash to '' to take any."
        )
    return found


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tower_shapes(spec: FrozenSpec) -> dict[str, Any]:
    """The parameters' shapes of a network of nets/tower.py."""
    return tower.shapes(spec.network)


def tokenizer_shapes(spec: FrozenSpec) -> dict[str, Any]:
    """The parameters' shapes of a network of nets/tokenizers.py."""
    image = jnp.zeros((1, *spec.network.smallest))
    return jax.eval_shape(spec.network.init, jax.random.key(0), image)["params"]


def load_mapped(
    spec: FrozenSpec, template: Mapping[str, Any], rules: Callable[[Tensors], Rules], rename=lambda tensors: tensors
) -> tuple[dict[str, Any], str]:
    """A published file through a name map.

    Args:
      rules: the name map, for the names that the file has.
      rename: drops a prefix and the like from {name: array} first.
    """
    path = find(spec)
    found = check_hash(spec, sha256(path))
    tensors = rename(read_tensors(path))
    try:
        params, _ = import_weights(rules(tensors), tensors, template)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return params, found
