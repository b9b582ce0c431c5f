"""Every method's train step compiles ahead of time for a TPU slice, and masking costs no collective there.

Needs no TPU, only its compiler: pip install libtpu (205 MB).
"""

import importlib.util
import re

import jax
import numpy as np
import pytest
from tiny_methods import TINY, make_batch

from mae_jax import methods
from mae_jax.config import resolve
from mae_jax.train.build import build

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, is not installed"
)


@pytest.fixture(scope="module")
def chips():
    """The eight chips of a v5e:2x4, none of which is there."""
    from jax.experimental import topologies

    patch = pytest.MonkeyPatch()
    patch.setenv("TPU_SKIP_MDS_QUERY", "1")
    patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    assert jax.devices()  # the CPU has read its flags, which libtpu does not all know: it would end the process
    patch.setenv("XLA_FLAGS", "")
    yield topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    patch.undo()


def compiled(run, name, size):
    """The text of a run's step, compiled for its chips."""
    batch = {
        k: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=run.sharding(k))
        for k, x in make_batch(name, size).items()
    }
    return run.step.lower(run.shapes, run.frozen_shapes, batch, run.method.plan(0)).compile().as_text()


@pytest.mark.parametrize("name", methods.names())
def test_the_step_compiles_for_a_slice_and_only_reduces(name, chips):
    spec = methods.get(name)(**TINY[name]).batch_spec
    batched = all(leaf.batched for leaf in spec.values())
    size = 16 if batched else 1
    config = resolve({
        "method": {"name": name} | TINY[name], "data": {"source": "digits"}, "train": {"batch": size, "steps": 10},
        "eval": {"batch": size}, "augment": {"normalise": "batch" if "image" in spec else "fixed"},
    })  # fmt: skip
    run = build(config, list(chips))
    text = compiled(run, name, size)
    found = {c: len(re.findall(rf" {c}(?:-start)?\(", text)) for c in COLLECTIVES}
    reduces = found.pop("all-reduce")
    assert (reduces > 0) == batched  # one large graph lies whole on every chip
    if "contrast" in run.method.couples:
        found.pop("all-gather")  # of the embeddings that are contrasted
    assert not any(found.values()), found


@pytest.mark.parametrize("mesh", [{}, {"fsdp": 4}, {"scan": True, "remat": "dots"}])
def test_the_kernel_of_short_sequences_compiles_in_a_step(mesh, chips):
    """Once forward and once backward per stack of blocks: of two heads in 128 lanes, and of four."""
    wide = {"dim": 128, "heads": 2, "decoder_dim": 128, "decoder_heads": 4, "depth": 2, "decoder_depth": 2}
    config = resolve({
        "method": {"name": "mae"} | TINY["mae"] | wide, "data": {"source": "digits"},
        "train": {"batch": 16, "steps": 10, "precision": "bfloat16"}, "augment": {"normalise": "batch"},
        "mesh": {"attention": "lanes"} | mesh,
    })  # fmt: skip
    text = compiled(build(config, list(chips)), "mae", 16)
    calls = re.findall(r"%attention_lanes_(forward|backward)\S* = .* custom-call\(", text)
    scanned = mesh.get("scan", False)
    assert calls.count("backward") == (2 if scanned else 4)  # a loop's body is there once
    assert calls.count("forward") == 4  # of a loop once more, computed again
    if "fsdp" not in mesh:
        assert not re.search(r" (all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\(", text)
