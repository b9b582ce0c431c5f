"""Device-side normalisation: integers travel, floats are made inside the step."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def normalise(image: Shaped[Array, "*b c"], mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Array, "*b c"]:
    """(image - mean) / std per channel, in float32. Integers are first scaled to [0, 1] by their type's maximum."""
    x = jnp.asarray(image, jnp.float32)
    if jnp.issubdtype(image.dtype, jnp.integer):
        x = x / np.float32(jnp.iinfo(image.dtype).max)
    shape = (1,) * (x.ndim - 1) + (-1,)
    offset, scale = np.asarray(mean, np.float32).reshape(shape), np.asarray(std, np.float32).reshape(shape)
    return (x - offset) / scale
