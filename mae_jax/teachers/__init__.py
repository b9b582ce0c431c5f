"""Frozen networks: how each family's weights are found, checked and named. Their forward functions live in nets/.

One module per family, found by its name; each has `shapes(spec)` and `load(spec)` as below. Methods only declare a
`FrozenSpec`; training and evaluation load it.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import numpy as np

from mae_jax.core import tree
from mae_jax.core.errors import UserError, nearest
from mae_jax.methods.base import FrozenSpec


def families() -> list[str]:
    """Every family, without importing any."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in ("bundled", "files"))


def shapes(spec: FrozenSpec) -> dict[str, Any]:
    """Nested dict of `jax.ShapeDtypeStruct`; no file is read."""
    return _family(spec).shapes(spec)


def load(spec: FrozenSpec) -> tuple[dict[str, Any], str]:
    """(nested dict of float32 arrays, the file's sha256), before any long work.

    Raises:
      UserError: no such file, another hash than `spec.sha256`, weights that do not fit `spec.network`.
    """
    if not spec.file:
        raise UserError(
            f"the frozen '{spec.family}' network needs its weights, and no file is named. Name one in the config "
            f"(docs/teachers.md says where the published ones are found)."
        )
    params, sha256 = _family(spec).load(spec)
    bad = [path for path, leaf in tree.flatten(params).items() if not np.isfinite(leaf).all()]
    if bad:
        raise UserError(f"the weights in {spec.file} are not finite in {', '.join(bad[:3])}: the file is damaged.")
    return params, sha256


def _family(spec: FrozenSpec) -> ModuleType:
    if spec.family not in families():
        raise UserError(f"unknown family of frozen networks '{spec.family}'. {nearest(spec.family, families())}")
    return importlib.import_module(f"{__name__}.{spec.family}")
