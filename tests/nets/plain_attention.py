"""What the kernels of attention are compared to."""

import jax.numpy as jnp
import numpy as np

from mae_jax.nets.attention import attend


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def plain(qkv, bias, heads, scale):
    b, n, _ = qkv.shape
    q, k, v = (qkv + bias[None, None]).reshape(b, n, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    return attend(q, k, v, scale).swapaxes(1, 2).reshape(b, n, -1)
