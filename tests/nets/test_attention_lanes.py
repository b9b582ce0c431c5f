"""The TPU's kernel for short sequences, interpreted on a CPU: attention and its gradients, whatever shares lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec
from plain_attention import draw, plain

from mae_jax.core.mesh import BATCH, make_mesh, use_mesh
from mae_jax.nets.attention import Attention
from mae_jax.nets.attention_lanes import lanes
from mae_jax.nets.block import Stack, Transformer
from mae_jax.nets.compute import Compute
from mae_jax.testing.flops import dot_flops


@pytest.mark.parametrize(
    "b, n, heads, width",
    [
        (3, 50, 4, 64),  # two heads in 128 lanes, two blocks
        (8, 9, 8, 32),  # four in 128, and several samples to a turn
        (2, 197, 4, 32),  # one sample to a turn
        (2, 11, 16, 80),  # ViT-H's: heads that lie across the border of two times 128 lanes, blocks of 640
        (1, 7, 16, 88),  # ViT-g's: all in one block
        (2, 17, 2, 128),
        (2, 5, 1, 256),
        (20, 3, 4, 32),  # four blocks of samples, whose bias gradients are summed
    ],
)
def test_the_kernel_equals_einsum_with_its_gradients(b, n, heads, width):
    qkv, bias, y = draw((b, n, 3 * heads * width), (3 * heads * width,), (b, n, heads * width))
    both = lambda f: jax.jit(jax.value_and_grad(lambda x, c: jnp.sum(f(x, c, heads, 0.2) * y), argnums=(0, 1)))
    with pltpu.force_tpu_interpret_mode():
        got = both(lanes)(qkv, bias)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(both(plain)(qkv, bias))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


def outcome(module, params, x):
    with pltpu.force_tpu_interpret_mode():
        return jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(module.apply(p, x) ** 2), argnums=(0, 1)))(params, x)


def assert_same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"qkv_bias": "qv"}, {"cosine": True}, {"scale": 0.3}])
def test_attention_by_the_kernel_has_the_same_parameters_and_gradients(options):
    (x,) = draw((2, 6, 128))
    fast, slow = (Attention(2, attention=kind, **options) for kind in ("lanes", "einsum"))
    params = fast.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1 * jnp.ones_like(p), params)  # biases begin as 0
    assert_same(outcome(fast, params, x), outcome(slow, params, x))
    text = str(jax.make_jaxpr(fast.apply)(params, x))
    assert "attention_lanes_forward" in text and "attention_lanes_forward" not in str(
        jax.make_jaxpr(slow.apply)(params, x)
    )
    assert ("transpose" in text) == ("cosine" in options)  # heads are set apart only for what changes q and k


def test_over_eight_devices_each_runs_it_on_its_own_samples():
    (x,) = draw((16, 6, 128))
    fast, slow = (Attention(2, attention=kind) for kind in ("lanes", "einsum"))
    params = slow.init(jax.random.key(0), x)
    mesh = make_mesh(4, 2, jax.devices())
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(BATCH)))
    with use_mesh(mesh):
        got = outcome(fast, params, split)
    assert_same(got, outcome(slow, params, x))


def test_its_flops_are_those_of_the_heads_own_products():
    """Masked lanes do not count: 2 x 2 n^2 c forward and 2 x 5 n^2 c backward per sample and head."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 50, 384), (384,))]
    loss = jax.value_and_grad(lambda x, bias: lanes(x, bias, 4, 0.2).sum())
    assert dot_flops(jax.make_jaxpr(loss)(*shapes).jaxpr) == 8 * 4 * (4 + 10) * 50**2 * 32


@pytest.mark.parametrize("shape, heads, said", [((1, 4, 96), 3, "no multiple of 128"), ((1, 1100, 128), 2, "too many")])
def test_what_does_not_fit_goes_by_einsum_and_says_so(shape, heads, said, caplog):
    (x,) = draw(shape)
    fast, slow = (Attention(heads, attention=kind) for kind in ("lanes", "einsum"))
    params = slow.init(jax.random.key(0), x)
    np.testing.assert_array_equal(fast.apply(params, x), slow.apply(params, x))
    assert said in caplog.text and "einsum" in caplog.text


@pytest.mark.parametrize("kind, platform", [("lanes", "tpu"), ("triton", "cuda")])
@pytest.mark.parametrize(
    "compute, kernels",
    [(dict(remat="none"), 2), (dict(remat="full"), 3), (dict(remat="dots"), 2), (dict(remat="dots", scan=True), 3)],
)
def test_remat_dots_runs_the_kernel_forward_once_but_in_a_loop(kind, platform, compute, kernels):
    """Programs of the kernel per layer, forward, again, and backward: of two layers as a loop there is one."""
    net = Stack(Transformer(128, 2, 2, compute=Compute(jnp.bfloat16, attention=kind, norm="xla", **compute)))
    x = jnp.zeros((2, 8, 128), jnp.bfloat16)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    loss = lambda params: net.apply(params, x)[0].astype(jnp.float32).sum()
    lowered = jax.jit(jax.value_and_grad(loss)).trace(params).lower(lowering_platforms=(platform,))
    call = {"lanes": "@tpu_custom_call(", "triton": "@__gpu$xla.gpu.triton("}[kind]
    assert lowered.as_text().count(call) == kernels * (1 if compute.get("scan") else 2)
    kept = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
    products = sum(leaf.size for leaf in jax.tree.leaves(kept) if leaf.shape[-3:] == (2, 8, 3 * 128))
    assert products == (0 if compute["remat"] == "full" else 2 * 2 * 8 * 3 * 128)  # of two layers, each once
