"""The GPU's kernels, interpreted on a CPU: attention and layer norm with their gradients, against the plain forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import NamedSharding, PartitionSpec
from plain_attention import draw, plain
from tiny_runs import tiny

from mae_jax.core.mesh import BATCH, make_mesh, use_mesh
from mae_jax.nets import attention_kinds, choice, norm_kernel
from mae_jax.nets.attention import Attention, attend
from mae_jax.nets.attention_triton import triton
from mae_jax.nets.block import Block, Transformer
from mae_jax.nets.compute import Compute
from mae_jax.nets.layer_norm import layer_norm
from mae_jax.nets.norm_kernel import WIDEST, norm_fork, norm_kind
from mae_jax.train import check_chip
from mae_jax.train.build import build


@pytest.fixture
def interpreted(monkeypatch):
    """The names of the kernels that were called."""
    called, call = [], pl.pallas_call

    def interpret(*args, **options):
        called.append(options["name"])
        return call(*args, **options, interpret=True)

    monkeypatch.setattr(pl, "pallas_call", interpret)
    return called


def assert_close(got, wanted, rtol=1e-3):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    "b, n, heads, width",
    [
        (3, 50, 2, 64),  # ViT-L's encoder: one block of queries
        (2, 197, 2, 32),  # MAE's decoder: blocks of 64 forward and of 16 backward, the last not full
        (2, 65, 2, 80),  # a width that is no power of 2
        (1, 7, 3, 8),  # less than a matrix unit takes
    ],
)
def test_attention_equals_einsum_with_its_gradients(interpreted, b, n, heads, width):
    qkv, bias, y = draw((b, n, 3 * heads * width), (3 * heads * width,), (b, n, heads * width))
    both = lambda f: jax.jit(jax.value_and_grad(lambda x, c: jnp.sum(f(x, c, heads, 0.2) * y), argnums=(0, 1)))
    assert_close(both(triton)(qkv, bias), both(plain)(qkv, bias), rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"qkv_bias": "qv"}, {"cosine": True}, {"scale": 0.3}])
def test_an_attention_has_the_same_parameters_and_gradients(interpreted, options):
    (x,) = draw((2, 6, 32))
    fast, slow = (Attention(2, attention=kind, **options) for kind in ("triton", "einsum"))
    params = jax.tree.map(lambda p: p + 0.1, fast.init(jax.random.key(0), x))  # biases begin as 0
    outcome = lambda f: jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(f.apply(p, x) ** 2), argnums=(0, 1)))(params, x)
    assert_close(outcome(fast), outcome(slow))
    named = lambda f: "attention_triton_forward" in str(jax.make_jaxpr(f.apply)(params, x))
    assert named(fast) and not named(slow)


@pytest.mark.parametrize("shape", [(3, 7, 96), (2, 33, 64), (600, 1, 16)])
def test_layer_norm_equals_the_plain_one_with_its_gradients(interpreted, shape):
    """And the branch past it: its gradient comes back added."""
    d = shape[-1]
    x, scale, bias, past, y = draw(shape, (d,), (d,), shape, shape)
    x = 30 + 2 * x
    wide = lambda v: v.reshape((1,) * (x.ndim - 1) + (d,))
    theirs = lambda x, s, b: (x, layer_norm(x, wide(s), wide(b), 1e-6))
    ours = lambda x, s, b: norm_fork(x, s, b, 1e-6, jnp.float32)

    def outcome(f):
        loss = lambda *args: sum((out * weight).sum() for out, weight in zip(f(*args), (past, y)))
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, scale, bias)

    assert_close(outcome(ours), outcome(theirs), rtol=2e-4)


def test_a_block_by_kernels_over_eight_devices_equals_one_without(interpreted):
    (x,) = draw((16, 6, 32))
    shape = lambda **compute: Block(Transformer(32, 1, 2, compute=Compute(**compute)))
    slow, fast = shape(attention="einsum", norm="xla"), shape(attention="triton", norm="triton")
    params = slow.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.05 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    grad = lambda f: jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(f.apply(p, x) ** 2), argnums=(0, 1)))
    wanted = grad(slow)(params, x)
    mesh = make_mesh(4, 2, jax.devices())
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec(BATCH)))
    with use_mesh(mesh):
        text = str(jax.make_jaxpr(fast.apply)(params, x))
        assert_close(grad(fast)(params, split), wanted)
    assert text.count("name=layer_norm_forward") == 2 and "attention_triton_forward" in text and "shard_map" in text


@pytest.mark.parametrize("mesh", [{}, {"fsdp": 4, "scan": True, "remat": "dots"}])
def test_steps_by_kernels_over_eight_devices_are_those_without(interpreted, monkeypatch, mesh):
    monkeypatch.setattr(check_chip, "kernels", lambda *_: {})  # which refuses them on a CPU

    def steps(**kinds):
        run = build(tiny(mesh=mesh | kinds))
        state, seen = run.init(), []
        images = np.random.default_rng(0).integers(0, 256, (16, *run.method.batch_spec["image"].shape), np.uint8)
        for _ in range(2):
            state, metrics = run.step(state, {}, run.put({"image": images}), run.method.plan(0))
            seen.append((float(metrics["loss"]), float(metrics["grad_norm"])))
        return seen

    np.testing.assert_allclose(
        steps(attention="triton", norm="triton"), steps(attention="einsum", norm="xla"), rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_both_lower_for_a_gpu(dtype):
    """What Triton is given is made here; a GPU alone can compile it."""
    x, params = jnp.zeros((2, 50, 128), dtype), jnp.zeros(128)
    norm = lambda x, p: sum(y.astype(jnp.float32).sum() for y in norm_fork(x, p, p, 1e-6, dtype))
    attention = lambda x, p: triton(jnp.concatenate([x] * 3, -1), jnp.concatenate([p] * 3), 2, 0.1).sum()
    for f in (norm, attention) if dtype == jnp.bfloat16 else (norm,):
        text = jax.jit(jax.value_and_grad(f, (0, 1))).trace(x, params).lower(lowering_platforms=("cuda",)).as_text()
        assert text.count("custom_call @__gpu$xla.gpu.triton") == 2


def test_lengths_and_heads_that_do_not_fit_go_on_to_the_next(monkeypatch):
    """On a GPU "auto" is triton, then cuDNN, then einsum."""
    monkeypatch.setattr(choice, "family_of", lambda device: "gpu")
    bfloat16 = jnp.dtype(jnp.bfloat16)
    monkeypatch.setattr(choice, "_HELD", {("attention", kind, "cpu", bfloat16) for kind in ("triton", "cudnn")})

    def chosen(n, c, **options):
        return Attention(2, dtype=jnp.bfloat16, **options).bind({})._kind(n, c, masked=False)

    auto = functools.partial(chosen, attention="auto")
    assert (auto(50, 64), auto(197, 32), auto(1568, 64), auto(65, 80)) == ("triton", "triton", "cudnn", "cudnn")
    assert auto(65, 85) == "einsum" and chosen(1568, 64, attention="triton") == "einsum"
    monkeypatch.setattr(choice, "_HELD", set())
    assert auto(50, 64) == "einsum" and norm_kind("auto", 64, jnp.float32) == "xla"  # nobody has tried them


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_trial_holds_and_sees_what_is_wrong(interpreted, monkeypatch, dtype):
    """As a run on a GPU makes it at its start."""
    dtype = jnp.dtype(dtype)
    trials = {"norm": norm_kernel.NORM.trial.__wrapped__, "attention": attention_kinds.ATTENTION.trial.__wrapped__}
    assert [trial("triton", "cpu", dtype) for trial in trials.values()] == [None, None]
    off = lambda *args: jax.tree.map(lambda y: y * 1.1, norm_fork(*args))
    monkeypatch.setattr(norm_kernel, "norm_fork", off)
    monkeypatch.setitem(attention_kinds.FUNCTIONS, "triton", lambda q, k, v, scale: 1.1 * attend(q, k, v, scale))
    assert all("differs" in trial("triton", "cpu", dtype) for trial in trials.values())
    monkeypatch.setattr(norm_kernel, "norm_fork", lambda *_: 1 / 0)
    assert trials["norm"]("triton", "cpu", dtype).startswith("ZeroDivisionError")


def test_norms_over_tensor_are_xlas():
    with use_mesh(make_mesh(4, 1, jax.devices(), tensor=2)):
        assert norm_kind("triton", 64, jnp.bfloat16) == "xla"
    with use_mesh(make_mesh(4, 2, jax.devices())):
        assert norm_kind("triton", 64, jnp.bfloat16) == "triton"
    assert norm_kind("triton", 2 * WIDEST, jnp.bfloat16) == "xla"


def test_cudnn_gets_even_lengths(monkeypatch):
    """jax 0.10 and 0.11 refuse odd ones in a backward pass; what fills up changes nothing."""
    asked = []

    def library(name, q, k, v, scale, **lengths):
        asked.append((q.shape[2], {key: value.tolist() for key, value in lengths.items()}))
        return attention_library("xla", q, k, v, scale, **lengths)

    attention_library = attention_kinds._library
    monkeypatch.setattr(attention_kinds, "_library", library)
    gradient = lambda f, qkv: jax.grad(lambda *qkv: jnp.sum(jnp.sin(f(*qkv, 0.3))), (0, 1, 2))(*qkv)
    for n in (6, 7):
        qkv = draw(*[(2, 3, n, 8)] * 3)
        assert_close(gradient(attention_kinds.cudnn, qkv), gradient(attend, qkv), rtol=1e-5)
    assert asked == [(6, {}), (8, {"query_seq_lengths": [7, 7], "key_value_seq_lengths": [7, 7]})]
