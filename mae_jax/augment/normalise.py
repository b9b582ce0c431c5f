"""Device-side normalisation: integers travel, floats are made inside the step."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def normalise(image: Shaped[Array, "*b c"], mean: tuple[float, ...], std: tuple[float, ...]) -> Float[Array, "*b c"]:
    """(image - mean) / std per channel, in float32. Integers are first scaled to [0, 1] by their type's maximum."""
    x = to_unit(image)
    shape = (1,) * (x.ndim - 1) + (-1,)
    offset, scale = np.asarray(mean, np.float32).reshape(shape), np.asarray(std, np.float32).reshape(shape)
    return (x - offset) / scale


def within_batch(image: Shaped[Array, "b *s c"], deviations: float = 2.0) -> Float[Array, "b *s c"]:
    """To [0, 1] per channel, where 0 and 1 are the batch's mean -+ `deviations` of its deviation; clipped (CROMA).

    Couples the samples of a batch, and is unstable where a channel hardly varies.
    """
    x = to_unit(image)
    axes = tuple(range(x.ndim - 1))
    mean, std = x.mean(axes, keepdims=True), x.std(axes, keepdims=True)
    low, high = mean - deviations * std, mean + deviations * std
    return jnp.clip((x - low) / jnp.maximum(high - low, 1e-6), 0.0, 1.0)


def to_unit(image: Shaped[Array, "*b c"]) -> Float[Array, "*b c"]:
    """float32; integers are scaled to [0, 1] by their type's maximum, floats stay as they are."""
    x = jnp.asarray(image, jnp.float32)
    return x / np.float32(jnp.iinfo(image.dtype).max) if jnp.issubdtype(image.dtype, jnp.integer) else x
