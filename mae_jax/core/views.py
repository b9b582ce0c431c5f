"""Several views of each sample in one pass of a network."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

Tree = TypeVar("Tree")


def fold(*views: Tree) -> Tree:
    """v arrays (or trees) [b, ...] -> one of [b v, ...], a sample's views next to each other.

    Not one view behind the other: that would move samples between devices under a sharded batch.
    """
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1).reshape(-1, *x[0].shape[1:]), *views)


def unfold(x: Shaped[Array, "bv ..."], views: int) -> tuple[Shaped[Array, "b ..."], ...]:
    """The inverse of `fold` on an array."""
    x = x.reshape(-1, views, *x.shape[1:])
    return tuple(x[:, i] for i in range(views))
