"""Layers that differ from Linen's in a way that matters, and the field's initialisers."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mae_jax.core.chips import family_of
from mae_jax.core.mesh import active, device_now, each_alone
from mae_jax.core.types import Params, Stats
from mae_jax.nets import fp8 as float8
from mae_jax.nets.layer_norm import layer_norm
from mae_jax.nets.norm_kernel import norm_fork, norm_kind

Initializer = Callable[..., Array]

xavier = nn.initializers.xavier_uniform()
token_init = nn.initializers.normal(0.02)
# torch's own default, U(+-1/sqrt(fan_in)); a linear layer that takes it draws its bias from the same (`dense`).
torch_linear = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class LayerNorm(nn.Module):
    """Layer norm over the last axis, computed in float32.

    Not Linen's: its one-pass variance E[x^2] - E[x]^2 is off by 5e-2 at mean/std = 300.

    Attributes:
      kind: mesh.norm: "xla", "triton" (one GPU kernel, nets/norm_kernel.py) or "auto". Of use with `fork`.
    """

    eps: float = 1e-6
    dtype: Any = jnp.float32
    kind: str = "xla"

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return self._fork(x)[1]

    @nn.compact
    def fork(self, x: Float[Array, "*b d"]) -> tuple[Float[Array, "*b d"], Float[Array, "*b d"]]:
        """(`x`, its norm), for a branch that goes past the norm: a kernel adds its gradient in the same pass."""
        return self._fork(x)

    def _fork(self, x: Array) -> tuple[Array, Array]:
        d = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (d,))
        bias = self.param("bias", nn.initializers.zeros, (d,))
        if not self.is_initializing() and norm_kind(self.kind, d, self.dtype) == "triton":
            norm = lambda x, scale, bias: norm_fork(x, scale, bias, self.eps, self.dtype)
            return each_alone(norm, x, scale, bias, kernel=True)
        shape = (1,) * (x.ndim - 1) + (d,)
        return x, layer_norm(x, scale.reshape(shape), bias.reshape(shape), self.eps).astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, in float32, with torch's running statistics (collection "stats").

    Under one global jit the statistics are those of the global batch (torch: SyncBatchNorm). Not Linen's: that keeps
    a biased running variance, and gives NaN where nothing is valid.

    Attributes:
      eps: inside the root.
      momentum: share of the new value in the running ones.
      affine: whether it has `scale` and `bias`.
      scale_init: of `scale`; zeros, at the end of a residual branch, make it start as the identity.
    """

    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True
    dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b d"], valid: Bool[Array, "*b"] | None = None, *, train: bool = False
    ) -> Float[Array, "*b d"]:
        """Normalise by the batch (`train`) or by the running statistics; only `valid` positions count."""
        d, axes = x.shape[-1], tuple(range(x.ndim - 1))
        wide = (1,) * len(axes) + (d,)
        mean = self.variable("stats", "mean", jnp.zeros, (d,))
        var = self.variable("stats", "var", jnp.ones, (d,))
        x = x.astype(jnp.float32)
        if train:
            weight = jnp.ones((*x.shape[:-1], 1)) if valid is None else valid[..., None].astype(jnp.float32)
            count = weight.sum()
            m = (x * weight).sum(axes) / jnp.maximum(count, 1.0)
            v = (jnp.square(x - m.reshape(wide)) * weight).sum(axes) / jnp.maximum(count, 1.0)
            if not self.is_initializing():
                share = jnp.where(count > 0, self.momentum, 0.0)
                unbiased = v * count / jnp.maximum(count - 1, 1.0)
                mean.value = (1 - share) * mean.value + share * m
                var.value = (1 - share) * var.value + share * unbiased
        else:
            m, v = mean.value, var.value
        y = (x - m.reshape(wide)) * jax.lax.rsqrt(v.reshape(wide) + self.eps)
        if self.affine:
            scale = self.param("scale", self.scale_init, (d,)).reshape(wide)
            y = y * scale + self.param("bias", nn.initializers.zeros, (d,)).reshape(wide)
        return y.astype(self.dtype)


@jax.custom_vjp
def gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x Phi(x), exactly (Hendrycks and Gimpel 2016, arXiv 1606.08415), keeping nothing but `x` for the backward pass.

    jax.nn.gelu's own gradient keeps Phi(x) and the density beside it, each as large as `x`: XLA does not compute them
    again by itself. Its erfc is two polynomials, an exponential and two divisions, where erf is one (docs/speed.md).
    """
    at = x.astype(jnp.float32)
    return (at * _below(at)).astype(x.dtype)


def _below(x: Array) -> Array:
    """Phi(x), the normal distribution function, to float32's absolute precision, as torch's: 0 below -5.5."""
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def _gelu_backward(x: Array, g: Array) -> tuple[Array]:
    at, g32 = x.astype(jnp.float32), g.astype(jnp.float32)
    return ((g32 * (_below(at) + at * jnp.exp(-0.5 * at * at) * (2 * jnp.pi) ** -0.5)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def largest(x: Float[Array, "*n"], axis: int) -> Float[Array, "*m"]:
    """x.max(axis), whose gradient goes to the first of the largest, as torch's.

    jnp.max's divides by how many entries equal the maximum; where a compiler computes x once more for that comparison,
    to another last bit, none does, and the gradient is NaN (seen on CPU without backend optimisation). It would also
    keep x for the backward pass, where this keeps an index per maximum.
    """
    return x.max(axis)


def _largest_forward(x: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    at = jnp.expand_dims(x.argmax(axis), axis)
    return x.max(axis), (at, jnp.zeros((0, x.shape[axis]), x.dtype))


def _largest_backward(axis: int, kept: tuple[Array, Array], g: Array) -> tuple[Array]:
    at, like = kept
    shape = at.shape[:axis] + like.shape[1:] + at.shape[axis + 1 :]
    place = jax.lax.broadcasted_iota(at.dtype, shape, axis)
    return (jnp.where(place == at, jnp.expand_dims(g, axis), jnp.zeros((), like.dtype)),)


largest.defvjp(_largest_forward, _largest_backward)


def dense(
    features: int,
    name: str,
    dtype: Any,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = xavier,
    bias_init: Initializer | None = None,
    fp8: bool = False,
    dot_general: Any = None,
) -> nn.Module:
    """A linear layer as the field initialises it: Xavier-uniform kernel (in, out), zero bias.

    With `torch_linear` the bias too is torch's, unless `bias_init` says otherwise. `fp8`: nets/fp8.py, or else the
    product is `dot_general`, by default `row_dot_general`.
    """
    dot_general = float8.dot_general if fp8 else dot_general or row_dot_general
    if kernel_init is torch_linear and bias_init is None and use_bias:
        return TorchDense(features, dtype=dtype, dot_general=dot_general, name=name)
    bias_init = bias_init or nn.initializers.zeros
    return nn.Dense(
        features, use_bias=use_bias, dtype=dtype, name=name, kernel_init=kernel_init, bias_init=bias_init,
        dot_general=dot_general,
    )  # fmt: skip


def row_dot_general(x: Any, w: Any, dims: Any, *precision: Any, **options: Any) -> Array:
    """lax.dot_general of a linear layer (x [..., d], w [d, e]), on a CPU over rows in one axis.

    The gradient of `w` sums over the rows. Over two axes XLA's CPU backend first makes a transposed copy of the
    incoming gradient, and computes layer norms a second time for it: a quarter of a ViT-B's step. A TPU's tiles hold
    the last two axes, so there it is the joining of axes that would copy. Without a mesh no device is asked for.
    """
    if x.ndim < 3 or active() is None or family_of(device_now()) != "cpu":
        return jax.lax.dot_general(x, w, dims, *precision, **options)
    rows = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), w, (((1,), (0,)), ((), ())), *precision, **options)
    return rows.reshape(*x.shape[:-1], -1)


class TorchDense(nn.Module):
    """A linear layer with torch's default initialisation of kernel and bias, which needs to know the fan-in."""

    features: int
    dtype: Any = jnp.float32
    dot_general: Any = row_dot_general

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        d = x.shape[-1]
        kernel = self.param("kernel", torch_linear, (d, self.features)).astype(self.dtype)
        bias = self.param("bias", conv_bias(d), (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        dims = (((x.ndim - 1,), (0,)), ((), ()))
        y = self.dot_general(x, kernel, dims)
        return y + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def conv_bias(fan_in: int) -> nn.initializers.Initializer:
    """U(+-1/sqrt(fan_in)): torch's default bias of a convolution, which MAE keeps for its patch embedding."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def constant(value: np.ndarray) -> Initializer:
    """A parameter that starts as this array."""
    return lambda key, shape, dtype=jnp.float32: jnp.broadcast_to(jnp.asarray(value, dtype), shape)


def apply(module: nn.Module, params: Params, *args: Any, **kwargs: Any) -> Any:
    """The module as a function of its parameters."""
    return module.apply({"params": params}, *args, **kwargs)


def apply_stats(module: nn.Module, params: Params, stats: Stats, *args: Any, **kwargs: Any) -> tuple[Any, Stats]:
    """The module as a function of its parameters and statistics -> (output, statistics after the call)."""
    out, new = module.apply({"params": params, "stats": stats}, *args, mutable=["stats"], **kwargs)
    return out, new.get("stats", stats)
