"""Plain nested dicts addressed by path: "encoder/blocks/0/attn/qkv/kernel".

Sharding, weight decay, layer decay and checkpoint maps are rules over these paths.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.core.errors import UserError

LAYERS = "*"  # in a path: all layers of a stack, as one array


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


def match(
    rules: Sequence[tuple[str, Any]], paths: Iterable[str], what: str = "rule", where: str = ""
) -> dict[str, Any]:
    """The value of the first rule whose regular expression is found in each path.

    Args:
      what, where: what a rule is, and where one is added, for the error.

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
            f"The rules, tried in order, are: {', '.join(pattern for pattern, _ in rules)}. "
            f"Add one that matches{f' to {where}' if where else ''}."
        )
    return found


def size(tree: Any) -> int:
    """Number of scalars in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def stacks(tree: Any, path: str = "") -> dict[str, int]:
    """{path: layers} of the nodes "blocks" or "*_blocks" whose children "0", "1", ... are alike ("encoder/blocks": 24).

    The stages of a convnet are left out: their blocks never run as a loop.
    """
    if not isinstance(tree, Mapping):
        return {}
    name = path.rpartition("/")[2]
    layers = [tree[str(i)] for i in range(len(tree)) if str(i) in tree]
    alike = lambda layer: {below: (leaf.shape, leaf.dtype) for below, leaf in flatten(layer).items()}
    if re.fullmatch(r"(?!stage\d)(\w+_)?blocks", name) and len(layers) == len(tree) > 1:
        return {path: len(layers)} if all(alike(layer) == alike(layers[0]) for layer in layers) else {}
    return {k: n for key, node in tree.items() for k, n in stacks(node, _below(path, key)).items()}


def stack_layers(
    tree: Any, stacks: Mapping[str, int], join: Callable[[Sequence[Any]], Any] = jnp.stack, path: str = ""
) -> Any:
    """`tree` with the layers of each of its `stacks` as one: "encoder/blocks/0/norm1/scale", ... "/23/norm1/scale" of
    shape (1024,) become "encoder/blocks/*/norm1/scale" of shape (24, 1024).

    Args:
      join: what makes one leaf of the layers' leaves.
    """
    if path in stacks:
        return {LAYERS: jax.tree.map(lambda *leaves: join(leaves), *(tree[str(i)] for i in range(stacks[path])))}
    if isinstance(tree, Mapping):
        return {key: stack_layers(node, stacks, join, _below(path, key)) for key, node in tree.items()}
    return tree


def unstack_layers(tree: Any, stacks: Mapping[str, int], path: str = "") -> Any:
    """The inverse of `stack_layers`."""
    if path in stacks:
        layer = lambda i: jax.tree.map(lambda leaf: leaf[i], tree[LAYERS])
        return {str(i): layer(i) for i in range(stacks[path])}
    if isinstance(tree, Mapping):
        return {key: unstack_layers(node, stacks, _below(path, key)) for key, node in tree.items()}
    return tree


def _below(path: str, key: str) -> str:
    return f"{path}/{key}" if path else key
