"""Gradients that are written out, against autodiff of the same formulas in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.mesh import make_mesh, use_mesh
from mae_jax.nets import layers


def plain_layer_norm(x, scale, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * scale + bias


def pulled(function, arrays, g):
    """[output, gradients of `arrays`] at the incoming gradient `g`."""
    out, back = jax.vjp(function, *arrays)
    return [np.asarray(a, np.float64) for a in (out, *back(g.astype(out.dtype)))]


def compare(ours, plain, arrays, dtype):
    """The first of `arrays` in `dtype`; the others are parameters, in float32."""
    rng = np.random.default_rng(1)
    g = jnp.asarray(rng.normal(size=arrays[0].shape), jnp.float32)
    given = [jnp.asarray(arrays[0], dtype), *map(jnp.asarray, arrays[1:])]
    found = pulled(ours, given, g)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a, np.float64)) for a in given]
        expected = pulled(plain, wide, jnp.asarray(np.asarray(g, np.float64)))
    for a, b in zip(found, expected):
        bound = 2e-6 if dtype == jnp.float32 else 8e-3
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(6, 8), (3, 5, 16)])
def test_layer_norm(shape, dtype):
    rng = np.random.default_rng(0)
    wide = (1,) * (len(shape) - 1) + shape[-1:]
    arrays = [rng.normal(size=s).astype("float32") for s in (shape, wide, wide)]
    eps = 1e-3  # large enough to be seen
    out = lambda x, s, b: layers.layer_norm(x, s, b, eps)
    compare(out, functools.partial(plain_layer_norm, eps=eps), arrays, dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu(dtype):
    x = np.concatenate([np.linspace(-12, 12, 97), [0.0, -0.0, 1e-20]]).astype("float32")
    compare(layers.gelu, functools.partial(jax.nn.gelu, approximate=False), [x], dtype)


def test_rows_in_one_axis_are_the_same_product():
    rng = np.random.default_rng(0)
    x, w, g = (rng.normal(size=s).astype("float32") for s in ((2, 3, 4, 5), (5, 6), (2, 3, 4, 6)))
    dims = (((3,), (0,)), ((), ()))
    own = lambda w: layers.row_dot_general(jnp.asarray(x), w, dims).sum()
    assert "tensor<24x5xf32>" not in jax.jit(jax.grad(own)).lower(w).as_text()  # no mesh, so no device is asked
    with use_mesh(make_mesh(1, 1, jax.devices()[:1])):
        found = pulled(
            lambda x, w: layers.row_dot_general(x, w, dims), [jnp.asarray(x), jnp.asarray(w)], jnp.asarray(g)
        )
        text = jax.jit(jax.grad(lambda w: own(w))).lower(w).as_text()  # another function: jit keeps traces
    expected = [x @ w, np.einsum("abce,de->abcd", g, w), np.einsum("abcd,abce->de", x, g)]
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert "tensor<24x5xf32>" in text  # the rows did come together: this is a CPU
