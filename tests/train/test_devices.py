"""One device against eight: the same numbers, and no collective that masking would have caused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import tiny

from mae_jax.core import tree
from mae_jax.core.mesh import use_mesh
from mae_jax.train.build import build

MESHES = {"1": (1, 1), "data 8": (8, 1), "data 2, fsdp 4": (2, 4)}
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def make_run(mesh, *overrides):
    data, fsdp = MESHES[mesh]
    config = tiny(f"mesh.data={data}", f"mesh.fsdp={fsdp}", "optim.warmup=0", "optim.name=sgd",
                  "optim.learning_rate=8.0", "optim.average=0.5", "optim.clip=1.0", *overrides)  # fmt: skip
    return build(config, jax.devices()[: data * fsdp])


@functools.cache
def three_steps(mesh, *overrides):
    """(metrics of each of three steps, the state after them) on the host."""
    rng = np.random.default_rng(2)
    run = make_run(mesh, *overrides)
    with jax.default_matmul_precision("highest"):
        state, history = run.init(), []
        for _ in range(3):
            state, metrics = run.step(state, {}, run.put({"image": rng.integers(0, 255, (16, 8, 8, 1), np.uint8)}))
            history.append(jax.device_get(metrics))
    return history, tree.flatten(jax.device_get(state))


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("mesh", ["data 8", "data 2, fsdp 4"])
def test_eight_devices_are_one(mesh, microbatches):
    parts = f"train.microbatches={microbatches}"
    history, state = three_steps("1", parts)
    others, found = three_steps(mesh, parts)
    for step, (expected, metrics) in enumerate(zip(history, others, strict=True)):
        assert expected.keys() == metrics.keys()
        for name in expected:
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=f"{name}, step {step}")
    assert history[0]["loss"] != history[2]["loss"] and state.keys() == found.keys()
    for path, leaf in state.items():
        np.testing.assert_allclose(found[path], leaf, atol=1e-6, err_msg=path)


def test_fsdp_splits_what_it_says():
    run = make_run("data 2, fsdp 4")
    state = run.init()
    kernel = state["params"]["encoder"]["blocks"]["0"]["mlp"]["fc1"]["kernel"]
    assert kernel.shape == (16, 64) and {s.data.shape for s in kernel.addressable_shards} == {(16, 16)}
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda s: s.sharding, run.shapes)


def compiled_text(run):
    image = jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.uint8)
    with use_mesh(run.mesh):
        return run.step.lower(run.shapes, {}, {"image": image}, None).compile().as_text()


def count(text):
    """{collective: how often it is started} in compiled HLO."""
    return {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}


@pytest.mark.parametrize("microbatches", [1, 2])
def test_data_parallel_steps_only_reduce(microbatches):
    """Shuffling, gathering and restoring tokens stay on the device that holds the sample."""
    found = count(compiled_text(make_run("data 8", f"train.microbatches={microbatches}")))
    assert found.pop("all-reduce") > 0
    assert found == dict.fromkeys(COLLECTIVES[1:], 0)
