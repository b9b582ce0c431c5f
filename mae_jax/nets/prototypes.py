"""A head of class prototypes: how much any place of a feature map resembles each of a class's learned vectors.

Prototypical probing of Bird-MAE (Rauch et al., 2025), after AudioProtoPNet (Heinrich et al., 2025).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.core.types import Features

SURE = 1.01  # cosines are divided by it
CHANNELS, EPS = 2, 1e-4  # channels of value EPS are appended to both sides, and EPS lies in every root


class PrototypeHead(nn.Module):
    """Logit_c = sum_j w_cj s_cj + b_c, s the largest similarity of prototype (c, j) to any place of the map.

    Parameters: `prototypes` [classes, per_class, h, w, d], `last/kernel` [classes, per_class], `last/bias` [classes].

    Attributes:
      classes, per_class: the classes, and the prototypes of each (paper: 20).
      size: of a prototype, in places of the map: (rows, columns).
      upsample: the map is brought to twice its size first (bilinear).
      top: the mean of so many largest similarities in training; of the one largest otherwise.
      weight, bias: where `last` starts; bias None: U(+-1/sqrt(per_class)), as torch's linear layer (the authors' code
        then does not set it).
      non_negative: whether weights below 0 count as 0.
      other: the weight of the other classes' prototypes at the start; None: they are not connected (published). With a
        number the kernel is [classes, classes * per_class].
      rows: of the upsampled map; each prototype then has a factor sigmoid(`frequency`) for every row; None: no factors.
    """

    classes: int
    per_class: int = 20
    size: tuple[int, int] = (1, 1)
    upsample: bool = True
    top: int = 1
    weight: float = 1.0
    bias: float | None = -2.0
    non_negative: bool = True
    other: float | None = None
    rows: int | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w d"], *, train: bool = False
    ) -> tuple[Float[Array, "b classes"], Float[Array, "b classes j"], Float[Array, "b h2 w2 p"]]:
        """Return (logits, each prototype's score, the similarities everywhere), in float32."""
        j, (h, w), d = self.per_class, self.size, x.shape[-1]
        prototypes = self.param("prototypes", nn.initializers.uniform(1.0), (self.classes, j, h, w, d))
        x = x.astype(jnp.float32)
        near = similarities(double(x) if self.upsample else x, prototypes.reshape(-1, h, w, d))
        if self.rows is not None:
            factor = self.param("frequency", nn.initializers.constant(3.0), (self.classes * j, self.rows))
            near = near * jax.nn.sigmoid(factor).T[None, :, None]
        near = jax.nn.relu(near)
        places = near.reshape(len(x), -1, self.classes, j)
        top = self.top if train else 1
        score = places.max(axis=1) if top == 1 else jnp.sort(places, axis=1)[:, -top:].mean(axis=1)
        return Last(self, name="last")(score), score, near


class Last(nn.Module):
    """The layer from scores to logits."""

    head: PrototypeHead

    @nn.compact
    def __call__(self, score: Float[Array, "b classes j"]) -> Float[Array, "b classes"]:
        head = self.head
        c, j = head.classes, head.per_class
        if head.other is None:
            kernel = self.param("kernel", nn.initializers.constant(head.weight), (c, j))
        else:
            own = np.repeat(np.eye(c), j, axis=1)
            start = jnp.asarray(own * head.weight + (1 - own) * head.other, jnp.float32)
            kernel = self.param("kernel", lambda key, shape: start, (c, c * j))
        kernel = jax.nn.relu(kernel) if head.non_negative else kernel
        out = (score * kernel[None]).sum(axis=-1) if head.other is None else score.reshape(len(score), -1) @ kernel.T
        if head.bias is None and head.other is not None:
            return out
        bound = j**-0.5

        def start_bias(key: Array, shape: tuple[int, ...]) -> Array:
            if head.bias is None:
                return jax.random.uniform(key, shape, minval=-bound, maxval=bound)
            return jnp.full(shape, head.bias, jnp.float32)

        return out + self.param("bias", start_bias, (c,))[None]


def feature_map(features: Features, focal: bool = True) -> Float[Array, "b h w d"]:
    """Patch tokens after the last norm as a map of (mel, time) places; `focal`: minus the class token.

    As the authors lay it out: tokens in their order of (time, mel) are read as if it were (mel, time), so that
    neighbours in the map are none in the spectrogram. With prototypes of one place their maximum does not see that, but
    for what `double` interpolates.
    """
    x = features.normed
    if focal:
        x = x - features.prefix[:, :1]
    return x.reshape(len(x), *features.grid[::-1], x.shape[-1])


def similarities(x: Float[Array, "b h w d"], prototypes: Float[Array, "p k l d"]) -> Float[Array, "b h2 w2 p"]:
    """Cosines over 1.01 of every place (of k x l) and every prototype.

    Both get two channels of 1e-4; roots hold 1e-4, and a prototype's length another 1e-4 outside its root.
    """
    _, k, size, _ = prototypes.shape
    x, p = (jnp.concatenate([y, jnp.full((*y.shape[:-1], CHANNELS), EPS, y.dtype)], axis=-1) for y in (x, prototypes))
    x = x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True) + EPS)
    p = p / (jnp.sqrt(jnp.square(p).sum(axis=-1, keepdims=True) + EPS) + EPS)
    if k == size == 1:
        return jnp.einsum("bhwd,pd->bhwp", x, p[:, 0, 0]) / SURE
    h, w = x.shape[1] - k + 1, x.shape[2] - size + 1
    shifted = ((i, o) for i in range(k) for o in range(size))
    total = sum(jnp.einsum("bhwd,pd->bhwp", x[:, i : i + h, o : o + w], p[:, i, o]) for i, o in shifted)
    return jnp.asarray(total) / (k * size) / SURE


def double(x: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 d"]:
    """Twice the size along both axes, bilinear with half-pixel centres (torch's Upsample, align_corners=False)."""
    for axis in (1, 2):
        n = x.shape[axis]
        at = (np.arange(2 * n) + 0.5) / 2 - 0.5
        low = np.clip(np.floor(at), 0, n - 1).astype(int)
        high, share = np.minimum(low + 1, n - 1), np.clip(at, 0, n - 1)
        matrix = np.zeros((2 * n, n), np.float32)
        np.add.at(matrix, (np.arange(2 * n), low), 1 - (share - low))
        np.add.at(matrix, (np.arange(2 * n), high), share - low)
        x = jnp.moveaxis(jnp.tensordot(x, matrix, axes=(axis, 1)), -1, axis)
    return x


def orthogonality(prototypes: Float[Array, "c j h w d"]) -> Float[Array, "c j j"]:
    """Each class's Gram matrix of unit prototypes minus the identity: 0 where they are orthogonal."""
    p = prototypes.reshape(*prototypes.shape[:2], -1)
    p = p / (jnp.sqrt(jnp.square(p).sum(axis=-1, keepdims=True) + EPS) + EPS)
    return jnp.einsum("cjd,ckd->cjk", p, p) - jnp.eye(p.shape[1])[None]
