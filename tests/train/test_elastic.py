"""A run that stops on some devices goes on with others: the same batches, the same numbers."""

import jax
import numpy as np
import pytest
from tiny_runs import metrics, tiny

from mae_jax.core import tree
from mae_jax.core.exits import DONE
from mae_jax.train.build import Run, build
from mae_jax.train.checkpoint import restore_arrays
from mae_jax.train.loop import PRETRAINING, train

COMMON = ("log.every=1", "log.norms=none", "log.pictures=8", "optim.warmup=0", "checkpoint.every=2", "data.repeats=2")


def on(devices, workdir, steps, *layout):
    """Train (on) with the first so many devices."""
    import dataclasses

    task = dataclasses.replace(PRETRAINING, build=lambda config: build(config, jax.devices()[:devices]))
    assert train(tiny(*COMMON, *layout, f"train.steps={steps}", "optim.schedule=constant"), workdir, task) == DONE


@pytest.fixture
def batches(monkeypatch):
    """Every batch that a step reads, whole, in order."""
    put, seen = Run.put, []

    def kept(self, batch):
        seen.append({name: np.array(leaf) for name, leaf in batch.items()})
        return put(self, batch)

    monkeypatch.setattr(Run, "put", kept)
    return seen


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(workdir, batches of its steps) of six steps on one device, without a stop."""
    workdir, seen, put = tmp_path_factory.mktemp("alone"), [], Run.put
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "put", lambda self, batch: seen.append(jax.tree.map(np.array, batch)) or put(self, batch))
        on(1, workdir, 6)
    return workdir, seen[:6]


@pytest.mark.parametrize(
    "layouts",
    [
        [(8, "mesh.data=8"), (2, "mesh.data=2"), (4, "mesh.data=2", "mesh.fsdp=2")],
        pytest.param([(8, "mesh.fsdp=8"), (2, "mesh.data=2"), (1,)], marks=pytest.mark.slow),
    ],
    ids=["8 -> 2 -> 4", "8 fsdp -> 2 data -> 1"],
)
def test_other_devices_go_on_with_the_same_batches(alone, tmp_path, batches, layouts):
    used = []
    for number, (devices, *layout) in enumerate(layouts):
        before = restore_arrays(tmp_path) if number else None
        on(devices, tmp_path, 2 * number + 2, *layout)
        used += batches[:2]  # the rest are pictures
        del batches[:]
        if before is not None:  # what was there is what it began with: no step before is computed again
            assert int(before["step"]) == 2 * number
    workdir, expected = alone
    for step, (batch, other) in enumerate(zip(used, expected, strict=True)):
        assert batch.keys() == other.keys()
        for name, leaf in other.items():
            np.testing.assert_array_equal(batch[name], leaf, err_msg=f"{name} of step {step}")
    for line, other in zip(metrics(tmp_path), metrics(workdir), strict=True):
        assert line == pytest.approx(other, rel=1e-4)
    found, state = (tree.flatten(restore_arrays(w)) for w in (tmp_path, workdir))
    assert found.keys() == state.keys()
    for path, leaf in state.items():
        # A key's bias gets rounding for a gradient, and Adam makes it a step of the learning rate's size.
        if not path.endswith("qkv/bias"):
            np.testing.assert_allclose(found[path], leaf, rtol=1e-3, atol=1e-5, err_msg=path)
