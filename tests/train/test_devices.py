"""One device against eight: the same numbers, and no collective that masking would have caused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_methods import TINY
from tiny_runs import tiny

from mae_jax.ahead.collectives import collectives, totals
from mae_jax.config import resolve
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.train.build import build

MESHES = {
    "1": (1, 1, 1), "data 8": (8, 1, 1), "fsdp 8": (1, 8, 1), "data 2, fsdp 4": (2, 4, 1), "2 x 2 x 2": (2, 2, 2),
    "tensor 8": (1, 1, 8), "tensor 2": (1, 1, 2), "fsdp 2, tensor 4": (1, 2, 4),
}  # fmt: skip


def make_run(mesh, *overrides):
    data, fsdp, tensor = MESHES[mesh]
    config = tiny(f"mesh.data={data}", f"mesh.fsdp={fsdp}", f"mesh.tensor={tensor}", "optim.warmup=0", "optim.name=sgd",
                  "optim.learning_rate=8.0", "optim.average=0.5", "optim.clip=1.0", *overrides)  # fmt: skip
    return build(config, jax.devices()[: data * fsdp * tensor])


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


SLOW = pytest.mark.slow
LOOP = ("mesh.scan=True", "mesh.remat=full")


@pytest.mark.parametrize(
    "mesh, overrides",
    [
        ("data 8", ("train.microbatches=2",)),
        ("data 2, fsdp 4", ("train.microbatches=2", "mesh.gather=layer", *LOOP)),
        ("2 x 2 x 2", ("train.microbatches=2", *LOOP)),
        pytest.param("2 x 2 x 2", ("train.microbatches=2",), marks=SLOW),
        pytest.param("tensor 8", (), marks=SLOW),
        pytest.param("fsdp 8", (), marks=SLOW),
        pytest.param("data 8", (), marks=SLOW),
        pytest.param("data 2, fsdp 4", (), marks=SLOW),
        pytest.param("data 2, fsdp 4", ("train.microbatches=2",), marks=SLOW),
        pytest.param("2 x 2 x 2", LOOP, marks=SLOW),
        pytest.param("tensor 8", ("train.microbatches=2", *LOOP), marks=SLOW),
        pytest.param("fsdp 2, tensor 4", ("mesh.gather=step",), marks=SLOW),
    ],
)
def test_eight_devices_are_one(mesh, overrides):
    """Losses, norms of the gradient by part, and steps of gradient descent; parts of the batch change nothing."""
    history, state = three_steps("1")
    others, found = three_steps(mesh, *overrides)
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
    assert kernel.shape == (16, 64) and {s.data.shape for s in kernel.addressable_shards} == {(4, 64)}
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda s: s.sharding, run.shapes)


def compiled(run):
    image = jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.uint8, sharding=run.sharding("image"))
    return run.step.lower(run.shapes, {}, {"image": image}, None).compile()


def moved(mesh, *overrides):
    """({(kind, axes): bytes} of what is more than 1 % of the parameters, bytes of all parameters) on CPU."""
    run = make_run(mesh, *overrides)
    parameters = 4 * tree.size(run.shapes["params"])
    found = totals(collectives(compiled(run), run.mesh))
    return {at: size for at, (_, size) in found.items() if size > 0.01 * parameters}, parameters


@pytest.mark.parametrize("microbatches", [2, pytest.param(1, marks=SLOW)])
def test_data_parallel_steps_reduce_the_gradient_once(microbatches):
    """Bytes of the parameters, however many microbatches: masking and restoring stay with the sample."""
    sizes, parameters = moved("data 8", f"train.microbatches={microbatches}")
    assert list(sizes) == [("all-reduce", "data")]
    assert parameters <= sizes["all-reduce", "data"] < 1.01 * parameters


@pytest.mark.parametrize("gather", ["step", pytest.param("layer", marks=SLOW)])
def test_fsdp_gathers_and_scatters(gather):
    """By step as often as without microbatches; by layer in each. Only vectors are all-reduced over fsdp."""
    sizes, parameters = moved("data 2, fsdp 4", "train.microbatches=2", f"mesh.gather={gather}")
    run = make_run("data 2, fsdp 4")
    split = sum(4 * x.size for x in jax.tree.leaves(run.shapes["params"]) if "fsdp" in x.sharding.spec)
    times = {"step": 1, "layer": 2}[gather]
    assert sizes.pop(("reduce-scatter", "fsdp")) == times * split
    assert sizes.pop(("all-gather", "fsdp")) in (split, times * split)  # XLA may move it out of the loop
    assert sizes.pop(("all-reduce", "data")) == pytest.approx(split / 4, rel=0.01)  # each its part, once
    assert sizes.pop(("all-reduce", "data+fsdp")) == pytest.approx(parameters - split, rel=0.1)
    assert not sizes


def test_tensor_moves_activations_and_no_weights():
    """Megatron's two all-reduces of a block and direction; the fused projection changes to heads by an all-to-all."""
    run = make_run("tensor 2")
    found = collectives(compiled(run), run.mesh)
    weights = sum(4 * x.size for p, x in tree.flatten(run.shapes["params"]).items() if p.endswith("qkv/kernel"))
    assert not [c for c in found if c.kind == "all-gather" and c.bytes > 4096]
    assert sum(c.bytes for c in found if c.kind == "all-to-all") <= 2 * weights


def test_gradients_travel_in_bfloat16_where_asked():
    """Rounded, and not more: the loss of the next step is that of float32 to three digits."""
    (exact, _), (rounded, _) = (three_steps("data 8", *o) for o in ((), ("mesh.reduce=bfloat16",)))
    assert exact[0]["loss"] == rounded[0]["loss"]
    assert exact[2]["loss"] != rounded[2]["loss"] == pytest.approx(exact[2]["loss"], rel=5e-3)
    with pytest.raises(UserError, match="mesh.reduce=bfloat16.*hang together"):
        build(lut("mesh.reduce=bfloat16"))


def lut(*overrides):
    return resolve({
        "method": {"name": "lut"} | TINY["lut"], "data": {"source": "digits"}, "train": {"batch": 16},
        "augment": {"mean": (0.5, 0.5), "std": (0.5, 0.5)},
        "eval": {"batch": 16},
    }, overrides)  # fmt: skip


@pytest.mark.parametrize(
    "overrides, said",
    [
        (("mesh.tensor=8", "method.dim=12", "method.decoder_dim=12", "method.heads=3", "method.decoder_heads=3"), None),
        (("mesh.fsdp=8", "method.dim=12"), None),
        (("mesh.slices=3",), "mesh.slices=3"),
        (("mesh.slices=8", "mesh.fsdp=2", "mesh.tensor=2"), "do not divide mesh.data=2"),
        (("train.batch=12",), "8 devices"),
        (("train.batch=4", "eval.batch=4", "mesh.fsdp=2", "mesh.tensor=2"), None),
    ],
)
def test_what_does_not_fit_is_said_before_work(overrides, said):
    if said is None:
        build(tiny(*overrides))
        return
    with pytest.raises(UserError, match=said):
        build(tiny(*overrides))
