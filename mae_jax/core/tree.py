"""Plain nested dicts addressed by path: "encoder/blocks/0/attn/qkv/kernel".

Sharding, weight decay, layer decay and checkpoint maps are rules over these paths.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from mae_jax.core.errors import UserError


def flatten(tree: Any) -> dict[str, Any]:
    """{path: leaf} of any pytree, in the tree's order; dict keys, indices and fields are joined by '/'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def path_name(path: Sequence[Any]) -> str:
    """One key path of jax.tree_util as text."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of {path: leaf}; the inverse of `flatten` on nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def map_with_path(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """tree.map of f(path, leaf, *other leaves)."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: f(path_name(path), *leaves), tree, *rest)


def match(rules: Sequence[tuple[str, Any]], paths: Iterable[str], what: str = "rule") -> dict[str, Any]:
    """The value of the first rule whose regular expression is found in each path.

    Raises:
      UserError: a path that no rule covers; nothing falls through silently.
    """
    found: dict[str, Any] = {}
    bare = []
    for path in paths:
        for pattern, value in rules:
            if re.search(pattern, path):
                found[path] = value
                break
        else:
            bare.append(path)
    if bare:
        raise UserError(
            f"no {what} covers {len(bare)} parameter(s): {', '.join(bare[:8])}{' ...' if len(bare) > 8 else ''}. "
            f"The rules, tried in order, are: {', '.join(pattern for pattern, _ in rules)}. Add one that matches."
        )
    return found


def size(tree: Any) -> int:
    """Number of scalars in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
