"""Pictures of what a method predicts: the training loss's own inner tensors, drawn."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Int, UInt8

from mae_jax.core.keys import Context
from mae_jax.core.types import Batch, Params
from mae_jax.eval.pictures import reconstruction_grid
from mae_jax.methods.base import Method, Rest

Pictures = Callable[[Params, Rest, Mapping[str, Any], int], dict[str, Array]]


def reconstructor(
    method: Method,
    prepare: Callable[[Batch], Batch],
    seed: int = 0,
    sharding: Sharding | None = None,
    steps: int | None = None,
) -> Pictures:
    """Jitted: (params, rest, batch as the source gives it, draw) -> `Method.pictures`.

    The same `draw` gives the same masks, so that pictures of one run can be compared.

    Args:
      steps: length of the schedule, for methods that ask.
      sharding: how the pictures lie on the devices; of several processes each can read only what is replicated.
    """

    def pictures(params: Params, rest: Rest, batch: Batch, draw: Int[Array, ""] | int) -> dict[str, Array]:
        batch = prepare(batch)
        _, aux = method.loss(params, rest, batch, Context(jax.random.key(seed), draw, train=False, steps=steps))
        return method.pictures(aux.seen, batch)

    return jax.jit(pictures, out_shardings=sharding)


def draw_grid(
    pictures: Mapping[str, Any], colours: tuple[tuple[float, ...], tuple[float, ...]], most: int
) -> UInt8[np.ndarray, "H W 3"]:
    """The pictures of up to `most` samples as one array for a PNG; `colours` are the input's mean and deviation."""
    return reconstruction_grid(jax.device_get(dict(pictures)), *colours, max_images=most)
