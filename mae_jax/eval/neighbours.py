"""The k nearest rows of a large bank on the devices: queries split over all of them, the bank taken in chunks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int, Int64

from mae_jax.core.mesh import batch_sharding, replicated

CHUNK = 16_384  # rows of the bank at a time
QUERIES = 4096  # queries at a time, over all devices


def nearest(
    bank: Float32[np.ndarray, "n d"],
    queries: Float32[np.ndarray, "q d"],
    k: int,
    mesh: Mesh,
    *,
    chunk: int = CHUNK,
    at_once: int = QUERIES,
) -> tuple[Float32[np.ndarray, "q k"], Int64[np.ndarray, "q k"]]:
    """(products, rows of the bank) of the k largest products of each query, largest first, ties by row.

    Every process holds bank and queries whole and gets the whole answer. The devices hold one chunk of the bank and
    `at_once` queries at a time.
    """
    at_once = -(-min(at_once, len(queries)) // mesh.size) * mesh.size
    chunk = max(min(chunk, len(bank)), k)
    found = []
    for first in range(0, len(queries), at_once):
        q = _put(_filled(queries[first : first + at_once], at_once), mesh, split=True)
        best = (_put(np.full((at_once, k), -np.inf, np.float32), mesh, split=True),
                _put(np.zeros((at_once, k), np.int32), mesh, split=True))  # fmt: skip
        for start in range(0, len(bank), chunk):
            part = _put(_filled(bank[start : start + chunk], chunk), mesh, split=False)
            best = _merge(best, part, q, np.int32(start), np.int32(len(bank)), k=k)
        real = min(at_once, len(queries) - first)
        found.append(tuple(_whole(x)[:real] for x in best))
    values, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return values, ids.astype(np.int64)


@functools.partial(jax.jit, static_argnames="k", donate_argnums=0)
def _merge(
    best: tuple[Array, Int[Array, "q k"]], part: Array, queries: Array, start: Any, total: Any, *, k: int
) -> tuple[Array, Array]:
    """The best of `best` and a chunk. top_k takes the earlier of equals, and what was found before comes first."""
    product = jnp.matmul(queries, part.T, precision=lax.Precision.HIGHEST)
    row = start + jnp.arange(part.shape[0], dtype=jnp.int32)
    product = jnp.where((row < total)[None, :], product, -jnp.inf)
    value, at = lax.top_k(product, k)
    values = jnp.concatenate([best[0], value], axis=1)
    ids = jnp.concatenate([best[1], row[at]], axis=1)
    value, at = lax.top_k(values, k)
    return value, jnp.take_along_axis(ids, at, axis=1)


def _filled(rows: np.ndarray, n: int) -> np.ndarray:
    """Rows of zeros at the end: one shape, one compilation."""
    return np.pad(rows, ((0, n - len(rows)), (0, 0)))


def _put(array: np.ndarray, mesh: Mesh, *, split: bool) -> Array:
    sharding = batch_sharding(mesh) if split else replicated(mesh)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _whole(x: Array) -> np.ndarray:
    if x.is_fully_addressable:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
