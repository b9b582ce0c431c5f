"""A scale of colours for pictures of one channel, evenly spaced for the eye."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Twelve of the 256 colours of magma (van der Walt and Smith, 2015; CC0), dark to bright.
MAGMA = np.array([
    (0.001, 0.000, 0.014), (0.070, 0.050, 0.194), (0.198, 0.064, 0.404), (0.348, 0.083, 0.494), (0.494, 0.141,
    0.508), (0.639, 0.190, 0.494), (0.786, 0.242, 0.450), (0.913, 0.330, 0.383), (0.980, 0.491, 0.368), (0.996,
    0.661, 0.451), (0.995, 0.827, 0.586), (0.987, 0.991, 0.750),
], np.float32)  # fmt: skip


def magma(x: Float[Array, "*b"]) -> Float[Array, "*b 3"]:
    """Numbers in [0, 1] (others count as the nearer end) -> red, green, blue in [0, 1]."""
    at = jnp.clip(x, 0.0, 1.0)[..., None] * (len(MAGMA) - 1)
    near = jnp.maximum(1 - jnp.abs(at - jnp.arange(len(MAGMA)).reshape((1,) * x.ndim + (-1,))), 0.0)  # two are not 0
    return jnp.matmul(near, MAGMA, precision="highest")


def upright(x: Float[Array, "b t f c"], scale: Float[Array, "b t f c"]) -> Float[Array, "b f t 3"]:
    """The first channel of spectrograms as pictures: time to the right, low frequencies below, dark to bright from the
    lowest to the highest value of each of `scale`."""
    low, high = (end(scale[..., 0], axis=(1, 2), keepdims=True) for end in (jnp.min, jnp.max))
    return magma((x[..., 0] - low) / jnp.maximum(high - low, 1e-6)).swapaxes(1, 2)[:, ::-1]
