"""Layer norm as one GPU kernel each way (Pallas, by Triton), with the gradient of the branch around it.

XLA fuses a layer norm's backward pass into kernels that run at a quarter of an H200's bandwidth, and sums the gradients
of scale and bias, and that of the branch past the norm, in passes of their own: docs/speed.md. Here the
backward pass reads the input and both gradients once, and writes one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

from mae_jax.core.mesh import active
from mae_jax.nets.choice import Choice, differ
from mae_jax.nets.layer_norm import layer_norm

ELEMENTS = 4096  # numbers of a block: rows x width, the width filled up to a power of 2, as Triton wants it
WIDEST = 8192  # numbers of a row, which one block holds
PROGRAMS = 528  # of the backward pass, each with many blocks and one partial sum: four per processor of an H200
WARPS = {"forward": 4, "backward": 8}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def norm_fork(
    x: Float[Array, "*b d"], scale: Float[Array, " d"], bias: Float[Array, " d"], eps: float, dtype: Any
) -> tuple[Float[Array, "*b d"], Float[Array, "*b d"]]:
    """(x, layer norm of x in `dtype`): who uses the first has its gradient added inside the kernel."""
    return x, _forward_call(x, scale, bias, eps, dtype)[0]


def _cut(x: Array) -> tuple[int, int, int, int]:
    """(rows of x, their length, rows of a block, its width)."""
    d = x.shape[-1]
    width = pl.next_power_of_2(d)
    return x.size // d, d, max(1, ELEMENTS // width), width


def _forward_call(x: Array, scale: Array, bias: Array, eps: float, dtype: Any) -> list[Array]:
    n, d, rows, width = _cut(x)
    y, mean, inverse = pl.pallas_call(
        functools.partial(_forward, n, d, rows, width, eps),
        out_shape=[jax.ShapeDtypeStruct((n, d), dtype), *(jax.ShapeDtypeStruct((n,), jnp.float32),) * 2],
        grid=(pl.cdiv(n, rows),),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS["forward"], num_stages=1),
        name="layer_norm_forward",
    )(x.reshape(n, d), scale, bias)
    return [y.reshape(x.shape), mean, inverse]


def _backward_call(eps: float, dtype: Any, kept: tuple, grads: tuple[Array, Array]) -> tuple[Array, ...]:
    x, mean, inverse, scale = kept
    n, d, rows, width = _cut(x)
    programs = min(PROGRAMS, pl.cdiv(n, rows))
    past, g = (grad.reshape(n, d) for grad in grads)
    dx, dscale, dbias = pl.pallas_call(
        functools.partial(_backward, n, d, rows, width, programs),
        out_shape=[jax.ShapeDtypeStruct((n, d), x.dtype), *(jax.ShapeDtypeStruct((programs, d), jnp.float32),) * 2],
        grid=(programs,),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS["backward"], num_stages=1),
        name="layer_norm_backward",
    )(x.reshape(n, d), g, past, mean, inverse, scale)
    return dx.reshape(x.shape), dscale.sum(axis=0), dbias.sum(axis=0)


def _fork_forward(x: Array, scale: Array, bias: Array, eps: float, dtype: Any) -> tuple:
    y, mean, inverse = _forward_call(x, scale, bias, eps, dtype)
    return (x, y), (x, mean, inverse, scale)


norm_fork.defvjp(_fork_forward, _backward_call)


def _forward(n: int, d: int, rows: int, width: int, eps: float, *refs: Any) -> None:
    x_ref, scale_ref, bias_ref, y_ref, mean_ref, inverse_ref = refs
    row, col = pl.program_id(0) * rows + jnp.arange(rows), jnp.arange(width)
    at, inside = (row[:, None], col[None, :]), (row[:, None] < n) & (col[None, :] < d)
    x = plgpu.load(x_ref.at[at], mask=inside, other=0.0).astype(jnp.float32)
    mean = x.sum(axis=1) / d
    centred = jnp.where(inside, x - mean[:, None], 0.0)
    inverse = jax.lax.rsqrt((centred * centred).sum(axis=1) / d + eps)
    scale, bias = (plgpu.load(ref.at[col], mask=col < d, other=0.0) for ref in (scale_ref, bias_ref))
    y = centred * inverse[:, None] * scale[None, :] + bias[None, :]
    plgpu.store(y_ref.at[at], y.astype(y_ref.dtype), mask=inside)
    plgpu.store(mean_ref.at[row], mean, mask=row < n)
    plgpu.store(inverse_ref.at[row], inverse, mask=row < n)


def _backward(n: int, d: int, rows: int, width: int, programs: int, *refs: Any) -> None:
    x_ref, g_ref, past_ref, mean_ref, inverse_ref, scale_ref, dx_ref, dscale_ref, dbias_ref = refs
    program, col = pl.program_id(0), jnp.arange(width)
    scale = plgpu.load(scale_ref.at[col], mask=col < d, other=0.0)[None, :]

    def block(i: Any, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        row = (program + i * programs) * rows + jnp.arange(rows)
        at, inside = (row[:, None], col[None, :]), (row[:, None] < n) & (col[None, :] < d)
        x, g, past = (
            plgpu.load(ref.at[at], mask=inside, other=0.0).astype(jnp.float32) for ref in (x_ref, g_ref, past_ref)
        )
        mean, inverse = (plgpu.load(ref.at[row], mask=row < n, other=0.0)[:, None] for ref in (mean_ref, inverse_ref))
        unit = jnp.where(inside, (x - mean) * inverse, 0.0)
        along = g * scale
        along_mean, unit_mean = (a.sum(axis=1, keepdims=True) / d for a in (along, along * unit))
        dx = (along - along_mean - unit * unit_mean) * inverse + past
        plgpu.store(dx_ref.at[at], dx.astype(dx_ref.dtype), mask=inside)
        return sums[0] + g * unit, sums[1] + g

    zeros = jnp.zeros((rows, width), jnp.float32)
    sums = jax.lax.fori_loop(0, pl.cdiv(n, rows * programs), block, (zeros, zeros))
    for ref, total in zip((dscale_ref, dbias_ref), sums):
        plgpu.store(ref.at[program, col], total.sum(axis=0), mask=col < d)


def _cannot(kind: str, family: str, dtype: Any) -> str | None:
    return f"its kernel is written for GPUs and this is a {family}" if kind == "triton" and family != "gpu" else None


@functools.cache
def _trial(kind: str, device_kind: str, dtype: Any) -> str | None:
    """Run forward and backward once against the plain form, on a width that is no power of 2."""
    x, g, scale, bias = np.random.default_rng(0).normal(1, 2, (4, 33, 200)).astype(np.float32)
    x, scale, bias = jnp.asarray(x, dtype), scale[0], bias[0]

    def plain(x: Array, scale: Array, bias: Array) -> tuple[Array, Array]:
        return x, layer_norm(x, scale[None], bias[None], 1e-6).astype(dtype)

    def gradient(f: Any) -> Callable[[], Any]:
        loss = lambda *args: sum((out.astype(jnp.float32) * g).sum() for out in f(*args))
        return lambda: jax.jit(jax.grad(loss, (0, 1, 2)))(x, scale, bias)

    kernel = lambda *args: norm_fork(*args, 1e-6, dtype)
    return differ(gradient(kernel), gradient(plain), 1e-4 if jnp.dtype(dtype) == jnp.float32 else 0.02)


NORM = Choice("norm", "xla", (), _cannot, _trial)


def norm_kind(asked: str, width: int, dtype: Any) -> str:
    """What computes the layer norms of a block that is being traced.

    With mesh.tensor its devices hold the same tokens, whose gradient a kernel would bring round them once more.
    """
    now = active()
    if width > WIDEST or (now is not None and now.mesh.shape["tensor"] > 1):
        return "xla"
    return NORM.now(asked, dtype)[0]
