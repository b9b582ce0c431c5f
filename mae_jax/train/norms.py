"""Norms of a tree by part of the network: where a gradient is large, and where the weights move."""

from typing import Any

import optax
from jaxtyping import Array

from mae_jax.core import tree


def parts(params: Any) -> dict[str, dict[str, Any]]:
    """{part: {path: array}} of a tree of parameters; a part is the first two levels of a path ("encoder/blocks")."""
    found: dict[str, dict[str, Any]] = {}
    for path, leaf in tree.flatten(params).items():
        found.setdefault("/".join(path.split("/")[:2]), {})[path] = leaf
    return found


def part_norms(prefix: str, params: Any) -> dict[str, Array]:
    """{"prefix/part": the Euclidean norm of the part's arrays, float32}."""
    return {f"{prefix}/{part}": optax.tree.norm(leaves) for part, leaves in parts(params).items()}
