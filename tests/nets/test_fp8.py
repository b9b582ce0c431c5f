"""Products in float8, emulated on the CPU by its float8 types."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mae_jax.nets import fp8
from mae_jax.nets.block import Block, Stack, Transformer
from mae_jax.nets.compute import Compute


def quantised(x, dtype):
    scale = np.abs(x).max() / float(ml_dtypes.finfo(dtype).max)
    return (x / np.float32(scale)).astype(dtype).astype(np.float32) * np.float32(scale)


def test_forward_and_gradients_are_those_of_rounded_operands():
    """NumPy with ml_dtypes' rounding: e4m3 for both operands, e5m2 for what comes back."""
    rng = np.random.default_rng(0)
    x, w, g = (rng.normal(size=s).astype(np.float32) for s in ((2, 5, 16), (16, 8), (2, 5, 8)))
    w *= 1e-3
    out, pull = jax.vjp(fp8.matmul, jnp.asarray(x), jnp.asarray(w))
    dx, dw = pull(jnp.asarray(g))
    qx, qw, qg = (quantised(a, t) for a, t in ((x, fp8.FORWARD), (w, fp8.FORWARD), (g, fp8.BACKWARD)))
    np.testing.assert_allclose(out, qx @ qw, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dx, qg @ qw.T, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dw, np.einsum("bnd,bne->de", qx, qg), rtol=1e-5, atol=1e-5)


def test_a_zero_tensor_stays_zero():
    out = fp8.matmul(jnp.zeros((1, 3, 4)), jnp.ones((4, 2)))
    np.testing.assert_array_equal(out, np.zeros((1, 3, 2)))


def test_a_block_in_float8_has_the_same_parameters_and_nearly_the_same_output():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 9, 32)), jnp.float32)
    plain, rough = (Block(Transformer(32, 1, 4, compute=Compute(fp8=f))) for f in (False, True))
    params = plain.init(jax.random.key(0), x)
    a, b = plain.apply(params, x), rough.apply(params, x)
    off = float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a - x))
    assert 1e-3 < off < 0.1  # e4m3 has 3 bits of mantissa: 3 % per product at most


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["dots", "offload"])
def test_remat_keeps_of_a_product_what_it_keeps_without_float8(remat, scan):
    """The float32 sum of a product was kept, twice what bfloat16 keeps."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 9, 32)), jnp.float32)

    def make(fp8, remat, dtype):
        net = Stack(Transformer(32, 2, 4, compute=Compute(dtype, scan, fp8=fp8, remat=remat)))
        return net, lambda params: net.apply(params, x.astype(dtype))[0].astype(jnp.float32).sum()

    params = make(False, "none", jnp.float32)[0].init(jax.random.key(0), x)

    def kept(fp8, remat):
        saved = jax.eval_shape(lambda p: jax.vjp(make(fp8, remat, jnp.bfloat16)[1], p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))

    assert kept(True, remat) == kept(False, remat) < kept(False, "none")
    ours, plain = (jax.jit(jax.grad(make(True, r, jnp.float32)[1]))(params) for r in (remat, "none"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, plain)
