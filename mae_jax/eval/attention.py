"""How far attention reaches, in pixels: per layer and head, for any method whose encoder attends to patches."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.core.types import Batch, Params
from mae_jax.methods.base import Method, Rest
from mae_jax.nets.attention import record

PREFIX = 8  # class and register tokens that may stand in front of the patches
Reach = Callable[[Params, Rest, Batch], tuple[Array, ...]]


def reach(method: Method, prepare: Callable[[Batch], Batch]) -> Reach:
    """Jitted: (params, rest, batch) -> for every recorded self-attention the mean distance [b, h] of its heads.

    The maps themselves are reduced where they arise. Empty where no attention is over the patch grid: a convolutional
    encoder, or windows.
    """
    compute = dataclasses.replace(method.compute, scan=False, remat="none")
    unrolled = dataclasses.replace(method, compute=compute)
    size = next(iter(method.batch_spec.values())).shape[:-1]

    @jax.jit
    def distances(params: Params, rest: Rest, batch: Batch) -> tuple[Array, ...]:
        with record() as maps:
            grid = unrolled.encode(params, rest, prepare(batch)).grid
        n = math.prod(grid)
        if not grid or len(grid) > len(size):
            return ()
        between = pixel_distances(grid, size[: len(grid)])
        whole = [m for m in maps if m.shape[-1] == m.shape[-2] and 0 <= m.shape[-1] - n <= PREFIX]
        return tuple(mean_distance(m, between) for m in whole)

    return distances


def mean_distance(weights: Float[Array, "b h t t"], between: Float[np.ndarray, "n n"]) -> Float[Array, "b h"]:
    """Mean over queries of sum_j a_ij distance(i, j) (Dosovitskiy et al., 2021, Fig. 11; Raghu et al., 2021, Fig. 1).

    Of patch tokens alone: tokens in front (the class token) have no place, so a query's weights on the patches are
    divided by their sum. Uniform attention therefore gives the mean distance of two patches.
    """
    n = between.shape[0]
    patches = weights[:, :, -n:, -n:]
    share = patches / jnp.maximum(patches.sum(axis=-1, keepdims=True), 1e-9)
    return (share * jnp.asarray(between, share.dtype)[None, None]).sum(axis=-1).mean(axis=-1)


def pixel_distances(grid: Sequence[int], size: Sequence[int]) -> Float[np.ndarray, "n n"]:
    """Euclidean distance in pixels between the centres of the patches of a grid over an array of `size`."""
    axes = [(np.arange(n) + 0.5) * (s / n) for n, s in zip(grid, size, strict=True)]
    centre = np.stack([x.reshape(-1) for x in np.meshgrid(*axes, indexing="ij")], axis=1)
    return np.sqrt(np.square(centre[:, None] - centre[None]).sum(axis=-1))


def summary(layers: Sequence[Float[np.ndarray, " h"]]) -> dict[str, float]:
    """{"attention_distance": of all heads, "attention_distance/LAYER": of a layer, ".../LAYER/HEAD": of a head}."""
    out: dict[str, float] = {}
    if layers:
        out["attention_distance"] = float(np.mean(np.concatenate(layers)))
    for i, heads in enumerate(layers):
        out[f"attention_distance/{i}"] = float(heads.mean())
        out |= {f"attention_distance/{i}/{h}": float(value) for h, value in enumerate(heads)}
    return out
