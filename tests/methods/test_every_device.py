"""Every method's train step: the same on one device and on eight, in microbatches, and rematerialised."""

import dataclasses
import functools
import math

import jax
import numpy as np
import optax
import pytest
from tiny_methods import make

from mae_jax import methods
from mae_jax.core import tree
from mae_jax.core.mesh import (
    batch_sharding,
    frozen_shardings,
    make_mesh,
    replicated,
    state_shardings,
    table,
    use_mesh,
    with_shardings,
)
from mae_jax.nets.compute import Compute
from mae_jax.train.step import make_step

SAMPLES = 16
ALIKE = ("colormae", "dmae", "maskalign", "pointmae", "videomaev2")  # built like another, which every run tries


@pytest.fixture(params=methods.names())
def name(request):
    return request.param


@functools.cache
def one_step(name, sizes=(1, 1, 1), microbatches=1, remat="none"):
    """(metrics, state) after one step of gradient descent on data x fsdp x tensor devices, on the host."""
    method, params, rest, batch = make(name, SAMPLES)
    method = dataclasses.replace(method, compute=Compute(remat=remat))
    mesh = make_mesh(sizes[0], sizes[1], jax.devices()[: math.prod(sizes)], tensor=sizes[2])
    optimizer = optax.identity()
    state = {
        "step": np.int32(3), "params": params, "stats": rest["stats"], "ema": {"teacher": rest["ema"]},
        "opt": optimizer.init(params), "guard": {"skipped": np.int32(0)},
    }  # fmt: skip
    step = make_step(
        method, optimizer, lambda step: 0.1, lambda batch, ctx: batch, seed=1, microbatches=microbatches, steps=10,
        mesh=mesh,
    )  # fmt: skip
    frozen = jax.tree.map(lambda s: s.sharding, frozen_shardings(rest["frozen"], mesh))
    lies = {k: batch_sharding(mesh) if leaf.batched else replicated(mesh) for k, leaf in method.batch_spec.items()}
    jitted = jax.jit(step, in_shardings=(state_shardings(state, mesh), frozen, lies), static_argnums=3)
    with use_mesh(mesh), jax.default_matmul_precision("highest"):
        state, metrics = jitted(state, rest["frozen"], batch, method.plan(3))
    return jax.device_get(metrics), tree.flatten(jax.device_get(state))


def assert_same(found, expected, rtol=2e-5, atol=2e-6):
    (metrics, state), (wanted, reference) = found, expected
    assert metrics.keys() == wanted.keys() and state.keys() == reference.keys()
    for key in wanted:
        np.testing.assert_allclose(metrics[key], wanted[key], rtol=rtol, atol=atol, err_msg=key)
    for path, leaf in reference.items():
        np.testing.assert_allclose(state[path], leaf, rtol=rtol, atol=atol, err_msg=path)


def test_every_array_is_covered_and_every_axis_used(name):
    """Parameters, statistics, averages and frozen networks, by the table that `mae_jax compile --shardings` prints."""
    _, params, rest, _ = make(name, SAMPLES)
    mesh = make_mesh(2, 2, tensor=2)
    state = {"params": params, "stats": rest["stats"], "ema": rest["ema"]}
    rows = table(with_shardings(state, state_shardings(state, mesh)), mesh)
    rows += table(frozen_shardings(rest["frozen"], mesh), mesh)
    assert len(rows) == len(jax.tree.leaves((state, rest["frozen"])))
    split = {axis: sum(row.bytes for row in rows if axis in row.spec) for axis in ("fsdp", "tensor")}
    assert split["fsdp"] and (split["tensor"] or name in ("spark", "graphmae"))  # which have no Transformer blocks
    for row in rows:
        whole = np.prod(row.shape) * np.dtype(row.dtype).itemsize
        assert whole == row.bytes * 2 ** (("fsdp" in row.spec) + ("tensor" in row.spec)), row


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ALIKE)) for n in methods.names()])
def test_eight_devices_are_one(name):
    """With every axis in use: the batch over four, what splits over two, attention over two."""
    assert_same(one_step(name, (2, 2, 2)), one_step(name))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (1, 4, 2)], ids=str)
def test_every_mesh_of_eight_is_one(name, sizes):
    batched = all(leaf.batched for leaf in make(name, SAMPLES)[0].batch_spec.values())
    assert_same(one_step(name, sizes, microbatches=1), one_step(name))
    if batched and not make(name, SAMPLES)[0].couples and sizes[2] < 8:
        assert_same(one_step(name, sizes, microbatches=2), one_step(name))


@functools.cache
def encoded(name, sizes):
    """Every array of `Method.encode`, one global program as evaluation runs it, on the host."""
    method, params, rest, batch = make(name, SAMPLES)
    mesh = make_mesh(sizes[0], sizes[1], jax.devices()[: math.prod(sizes)], tensor=sizes[2])
    lies = {k: batch_sharding(mesh) if leaf.batched else replicated(mesh) for k, leaf in method.batch_spec.items()}
    frozen = jax.tree.map(lambda s: s.sharding, frozen_shardings(rest["frozen"], mesh))
    encode = jax.jit(
        lambda params, frozen, batch: method.encode(params, dict(rest) | {"frozen": frozen}, batch),
        in_shardings=(state_shardings({"params": params}, mesh)["params"], frozen, lies),
    )
    with use_mesh(mesh), jax.default_matmul_precision("highest"):
        return jax.device_get(jax.tree.leaves(encode(params, rest["frozen"], batch)))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 2, 4), (1, 4, 2)], ids=str)
def test_features_of_every_mesh_are_those_of_one_device(name, sizes):
    for found, expected in zip(encoded(name, sizes), encoded(name, (1, 1, 1)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=5e-6)


def test_microbatches_change_nothing(name):
    method, *_ = make(name, SAMPLES)
    if method.couples or not all(leaf.batched for leaf in method.batch_spec.values()):
        pytest.skip("its samples hang together, or there is only one")
    assert_same(one_step(name, microbatches=2), one_step(name))


def test_rematerialising_changes_nothing(name):
    assert_same(one_step(name, remat="full"), one_step(name))
