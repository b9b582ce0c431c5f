"""Cross blocks: scanned, unrolled and rematerialised are one function; which memory goes where; initial laws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.nets.attention import CrossAttention
from mae_jax.nets.block import Transformer
from mae_jax.nets.compute import Compute
from mae_jax.nets.cross import CrossBlock, CrossStack
from mae_jax.nets.layers import apply, dense, torch_linear

X = jax.random.normal(jax.random.key(1), (2, 5, 16))
MEMORIES = jax.random.normal(jax.random.key(2), (3, 2, 4, 16))
SHAPE = Transformer(dim=16, depth=3, heads=4)


@pytest.fixture(scope="module")
def params():
    return CrossStack(SHAPE).init(jax.random.key(0), X, MEMORIES)["params"]


@pytest.mark.parametrize("compute", [Compute(scan=True), Compute(remat="full"), Compute(scan=True, remat="dots")])
@pytest.mark.parametrize("each", [True, False])
def test_scan_and_remat_change_nothing(params, compute, each):
    memory = MEMORIES if each else MEMORIES[0]

    def run(compute):
        net = CrossStack(dataclasses.replace(SHAPE, compute=compute))
        return jax.jit(jax.value_and_grad(lambda p, m: (apply(net, p, X, m) ** 2).mean(), (0, 1)))(params, memory)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), run(compute), run(Compute()))


def test_every_block_has_its_own_memory(params):
    x = X
    for i in range(3):
        x = apply(CrossBlock(SHAPE), params[str(i)], x, MEMORIES[i])
    np.testing.assert_allclose(apply(CrossStack(SHAPE), params, X, MEMORIES), x, rtol=1e-5, atol=1e-6)
    assert not np.allclose(apply(CrossStack(SHAPE), params, X, MEMORIES[::-1]), x, atol=1e-3)


@pytest.mark.parametrize("norm_memory", [True, False])
def test_memory_passes_the_norm_or_not(params, norm_memory):
    net = CrossBlock(SHAPE, norm_memory)
    once, larger = (apply(net, params["0"], X, scale * MEMORIES[0]) for scale in (1.0, 5.0))
    assert np.allclose(once, larger, atol=1e-3) == norm_memory


def test_a_fused_projection_is_two_side_by_side():
    y = MEMORIES[0]
    two, one = CrossAttention(4), CrossAttention(4, fused_kv=True)
    params = two.init(jax.random.key(3), X, y)["params"]
    kv = jax.tree.map(lambda k, v: jnp.concatenate([k, v], axis=-1), params["k"], params["v"])
    fused = {"q": params["q"], "proj": params["proj"], "kv": kv}
    np.testing.assert_allclose(apply(one, fused, X, y), apply(two, params, X, y), rtol=1e-5, atol=1e-6)
    kernel = one.init(jax.random.key(4), X, y)["params"]["kv"]["kernel"]
    assert 0.95 < np.abs(kernel).max() / (6 / (16 + 32)) ** 0.5 <= 1


def test_torch_s_default_covers_the_bias():
    x = jnp.ones((1, 400))
    for bias, bound in ((None, 400**-0.5), (jax.nn.initializers.zeros, 0.0)):
        p = dense(300, "", jnp.float32, kernel_init=torch_linear, bias_init=bias).init(jax.random.key(0), x)["params"]
        np.testing.assert_allclose(np.abs(p["kernel"]).max(), 400**-0.5, rtol=0.01)
        np.testing.assert_allclose(np.abs(p["bias"]).max(), bound, rtol=0.02)
