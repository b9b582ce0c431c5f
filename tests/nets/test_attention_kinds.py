"""All implementations of attention are one function, and what cannot run here says so."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mae_jax.config import resolve
from mae_jax.core.chips import Defaults
from mae_jax.core.errors import UserError
from mae_jax.nets import attention_kinds as kinds
from mae_jax.nets import choice
from mae_jax.nets.attention import Attention, attend, record
from mae_jax.train.build import build


def case(n=50, c=32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, 3, n, c)), jnp.float32) for _ in range(4)]


def value_and_grads(f, q, k, v, y):
    return jax.jit(jax.value_and_grad(lambda q, k, v: jnp.sum(f(q, k, v, 0.2) * y), argnums=(0, 1, 2)))(q, k, v)


def assert_same(f, rtol=1e-4):
    args = case()
    for a, b in zip(jax.tree.leaves(value_and_grads(f, *args)), jax.tree.leaves(value_and_grads(attend, *args))):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("kind", ["deferred", "xla"])
def test_what_runs_here_equals_einsum_with_its_gradients(kind):
    assert_same(kinds.FUNCTIONS[kind])


def test_the_tpus_kernel_equals_einsum_in_interpret_mode():
    """50 tokens on a tile of 128: the padding must stay out of every sum."""
    args = case()
    with pltpu.force_tpu_interpret_mode():
        got = jax.jit(lambda q, k, v: kinds.pallas(q, k, v, 0.2))(*args[:3])
    np.testing.assert_allclose(got, attend(*args[:3], 0.2), rtol=1e-4, atol=1e-5)


def test_deferred_survives_large_logits():
    q, k, v, _ = case()
    got = kinds.deferred(100 * q, 100 * k, v, 1.0)
    np.testing.assert_allclose(got, attend(100 * q, 100 * k, v, 1.0), rtol=1e-4, atol=1e-5)


def test_a_mask_a_bias_and_a_recording_go_by_einsum(caplog):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 12)), jnp.float32)
    plain, fast = (Attention(3, attention=kind) for kind in ("einsum", "deferred"))
    params = plain.init(jax.random.key(0), x)
    valid = jnp.arange(6)[None] < jnp.asarray([4, 6])[:, None]
    np.testing.assert_array_equal(plain.apply(params, x, valid), fast.apply(params, x, valid))
    assert "deferred" in caplog.text and "einsum" in caplog.text
    with record() as found:
        fast.apply(params, x)
    np.testing.assert_allclose(found[0].sum(-1), 1, rtol=1e-5)


def config(**sections):
    tiny = {"image_size": 16, "patch": 4, "dim": 16, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_depth": 1,
            "decoder_heads": 2, "channels": 1}  # fmt: skip
    base = {"method": {"name": "mae"} | tiny, "data": {"source": "digits"}, "train": {"batch": 16},
            "augment": {"normalise": "batch"}}  # fmt: skip
    return resolve(base | {k: base.get(k, {}) | v for k, v in sections.items()})


@pytest.mark.parametrize(
    "sections, said",
    [
        ({"mesh": {"attention": "cudnn"}}, "cuDNN"),
        ({"mesh": {"attention": "pallas"}}, "TPU"),
        ({"mesh": {"attention": "lanes"}}, "TPU"),
        ({"mesh": {"attention": "triton"}}, "GPU"),
        ({"mesh": {"norm": "triton"}}, "GPU"),
        ({"mesh": {"remat": "offload"}}, "offload"),
        ({"train": {"fp8": True}}, "float8"),
    ],
)
def test_what_this_chip_cannot_do_is_refused_before_anything_is_built(sections, said):
    with pytest.raises(UserError, match=said):
        build(config(**sections))


def test_auto_takes_the_first_of_the_table_that_runs(monkeypatch):
    device = jax.devices()[0]
    assert kinds.ATTENTION.choose("auto", device, jnp.float32)[0] == "deferred"
    monkeypatch.setattr(choice, "defaults", lambda of: Defaults(("cudnn", "xla"), (), ""))
    assert kinds.ATTENTION.choose("auto", device, jnp.float32)[0] == "xla"


def test_a_trial_that_fails_passes_on_what_follows_and_is_remembered(monkeypatch):
    """Also on a process whose devices are not the mesh's first: a device of another process has the same client."""
    monkeypatch.setattr(choice, "defaults", lambda of: Defaults(("deferred", "xla"), (), ""))
    monkeypatch.setattr(choice, "_FAILED", set())
    failing = dataclasses.replace(kinds.ATTENTION, trial=lambda kind, *_: "it is off" if kind == "deferred" else None)
    other = SimpleNamespace(device_kind="cpu", platform="cpu", client=jax.devices()[0].client)
    kind, why = failing.choose("auto", other, jnp.float32)
    assert kind == "xla" and "not deferred: it is off" in why
    assert failing.now("auto", jnp.float32) == ("xla", "einsum")
    with pytest.raises(UserError, match="it is off"):
        failing.choose("deferred", other, jnp.float32)
