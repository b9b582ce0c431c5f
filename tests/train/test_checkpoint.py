"""Checkpoints survive what really happens to them: damaged bytes, kill -9, a full disk, another mesh, a
changed model.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tiny_runs import free_port

from mae_jax.core.errors import UserError
from mae_jax.core.hashing import array_hash
from mae_jax.train.checkpoint import Checkpoints, checkpoint_directory, read_meta, restore_arrays, saved_steps


def make_state(seed=0, width=64):
    rng = np.random.default_rng(seed)
    params = {
        "encoder": {
            "kernel": jnp.asarray(rng.normal(size=(48, width)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=width), jnp.bfloat16),
            "none": jnp.zeros((0, 3)),  # orbax itself refuses arrays of size zero
        }
    }
    opt = optax.adamw(1e-3).init(params)
    return {
        "step": jnp.int32(seed),
        "params": params,
        "stats": {},
        "opt": opt,
        "guard": {"bad": jnp.array([True, False]), "rng": jnp.uint32(7)},
    }


def template_of(state, sharding=None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def save_steps(workdir, steps, **options):
    with Checkpoints(workdir, **options) as checkpoints:
        for step in steps:
            assert checkpoints.save(step, make_state(step), data={"next": 10 * step}, config={"seed": 3})


def flip_bit(path: Path, position: int | None = None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 4
    path.write_bytes(bytes(data))


def test_round_trip(tmp_path):
    state = make_state(5)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(template_of(state)) is None
        checkpoints.save(5, state, data={"next": 50, "rollback": 0}, config={"crop": (0.2, 1.0)}, metrics={"knn": 0.5})
        restored = checkpoints.restore(template_of(state))
    same(restored.state, state)
    assert (restored.step, restored.data, restored.metrics) == (5, {"next": 50, "rollback": 0}, {"knn": 0.5})
    assert restored.config == {"crop": [0.2, 1.0]}
    meta = read_meta(tmp_path)
    assert meta["format"] == 1 and meta["versions"]["jax"] == jax.__version__
    kernel = meta["arrays"]["params/encoder/kernel"]
    assert kernel["shape"] == [48, 64] and kernel["dtype"] == "float32"
    assert tuple(kernel["hash"]) == array_hash(np.asarray(state["params"]["encoder"]["kernel"]))


@pytest.mark.parametrize("saved,loaded", [((1, 1), (4, 2)), ((8, 1), (2, 2)), ((2, 4), (1, 1))])
def test_any_mesh_to_any_mesh(tmp_path, saved, loaded):
    def placed(shape):
        devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
        spec = lambda x: PartitionSpec(*(("data", "fsdp") if x.ndim == 2 and x.size else ()))  # noqa: E731
        return lambda x: NamedSharding(Mesh(devices, ("data", "fsdp")), spec(x))

    state = make_state(1)
    before = jax.tree.map(lambda x: jax.device_put(x, placed(saved)(x)), state)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed(loaded)(x)), state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, before, data={}, config={})
        after = checkpoints.restore(target).state
    same(after, state)
    assert all(jax.tree.leaves(jax.tree.map(lambda x, t: x.sharding == t.sharding, after, target)))


def test_arrays_without_a_template(tmp_path):
    save_steps(tmp_path, [1, 2])
    state = make_state(2)
    arrays = restore_arrays(tmp_path, subtree=("params", "stats"))
    assert list(arrays) == ["params"]
    same(arrays["params"], jax.tree.map(np.asarray, state["params"]))
    assert isinstance(arrays["params"]["encoder"]["kernel"], np.ndarray)
    assert restore_arrays(tmp_path, step=1)["opt"]["0"]["count"] == 0
    with pytest.raises(UserError, match="holds nothing under 'ema'; it has guard, opt, params, step"):
        restore_arrays(tmp_path, subtree="ema")
    with pytest.raises(UserError, match="no checkpoint of step 9; it has 1, 2"):
        restore_arrays(tmp_path, step=9)
    with pytest.raises(UserError, match="there is no checkpoint in"):
        read_meta(tmp_path / "elsewhere")


def test_the_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    state = {"w": jnp.arange(4_000_000, dtype=jnp.float32)}
    target = template_of(state)
    overwrite = jax.jit(lambda s: {"w": -1 - s["w"]}, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, data={}, config={})
        overwritten = jax.block_until_ready(overwrite(state))
        assert overwritten["w"][3] == -4  # (on a CPU jax copies here, as long as someone else reads the buffer)
        np.testing.assert_array_equal(checkpoints.restore(target).state["w"], np.arange(4_000_000, dtype=np.float32))


def test_saving_a_step_twice_does_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, make_state(1), data={"next": 1}, config={})
        assert not checkpoints.save(1, make_state(2), data={"next": 2}, config={})
        assert checkpoints.restore(template_of(make_state())).data == {"next": 1}


@pytest.mark.parametrize("reopen", [False, True])
def test_the_newest_and_the_best_are_kept(tmp_path, reopen):
    scores = {1: 0.1, 2: 0.9, 3: float("nan"), 4: 0.3, 5: None, 6: 0.2}
    checkpoints = Checkpoints(tmp_path, keep=2, best="knn")
    for step, score in scores.items():
        if reopen:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path, keep=2, best="knn")
        metrics = {"knn": score} if score is not None else None
        checkpoints.save(step, make_state(step), data={}, config={}, metrics=metrics)
    checkpoints.wait()
    assert saved_steps(tmp_path) == checkpoints.steps() == [2, 5, 6]
    checkpoints.close()
    save_steps(tmp_path / "plain", [1, 2, 3, 4], keep=2)
    assert saved_steps(tmp_path / "plain") == [3, 4]


def test_forget_after_a_roll_back(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), data={"run": 0}, config={})
        assert checkpoints.restore(template_of(make_state()), step=1).step == 1
        checkpoints.forget_after(1)
        assert checkpoints.steps() == saved_steps(tmp_path) == [1]
        assert checkpoints.save(2, make_state(2), data={"run": 1}, config={})
        assert checkpoints.restore(template_of(make_state())).data == {"run": 1}


def change(template, kind, leaf):
    if kind == "extra":
        return {**template, "extra": leaf}
    if kind == "less":
        return {name: part for name, part in template.items() if name != "guard"}
    return {**template, "step": leaf}


@pytest.mark.parametrize(
    "kind,leaf,message",
    [
        (
            "extra",
            jax.ShapeDtypeStruct((2,), jnp.float32),
            r"'extra' \(float32\[2\]\) is not in the checkpoint",
        ),
        ("less", None, "'guard/bad' is in the checkpoint only"),
        (
            "dtype",
            jax.ShapeDtypeStruct((), jnp.float32),
            r"'step' is float32\[\] here and int32\[\] in the checkpoint",
        ),
        (
            "shape",
            jax.ShapeDtypeStruct((1,), jnp.int32),
            r"'step' is int32\[1\] here and int32\[\] in the checkpoint",
        ),
    ],
)
def test_a_state_of_another_form_is_refused_by_path(tmp_path, kind, leaf, message):
    save_steps(tmp_path, [1])
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore(change(template_of(make_state()), kind, leaf))
    assert saved_steps(tmp_path) == [1]


def test_a_flipped_bit_names_the_array_and_the_older_one_is_used(tmp_path, capsys):
    state = {"params": {"w": jnp.arange(1000, dtype=jnp.float32), "v": jnp.arange(8.0)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, data={"next": 1}, config={})
        checkpoints.save(2, state, data={"next": 2}, config={})
        checkpoints.wait()
        # Swap one hash for another in a metadata file that is otherwise in order: the array "differs from
        # what was saved".
        from mae_jax.train import checkpoint_meta as module

        path = checkpoint_directory(tmp_path) / "2" / "meta" / "metadata"
        meta = module.read_step(checkpoint_directory(tmp_path), 2)
        meta["arrays"]["params/w"]["hash"][1] ^= 1
        path.write_text(json.dumps(module.seal(meta)))
        restored = checkpoints.restore(template_of(state))
        same(restored.state, state)
        assert restored.step == 1 and restored.data == {"next": 1}
        assert "1 of 2 arrays differ from what was saved: params/w" in capsys.readouterr().err
        # The damaged step is out of the way, so that the run can save it again.
        assert checkpoints.steps() == [1] and (checkpoint_directory(tmp_path) / "2.damaged").is_dir()
        assert checkpoints.save(2, state, data={"next": 2}, config={})
        assert checkpoints.restore(template_of(state)).step == 2


def test_damaged_bytes_in_the_only_checkpoint_are_an_error_that_changes_nothing(tmp_path):
    save_steps(tmp_path, [1])
    flip_bit(checkpoint_directory(tmp_path) / "1" / "meta" / "metadata")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="no good checkpoint among those tried.*step 1"),
    ):
        checkpoints.restore(template_of(make_state()))
    assert saved_steps(tmp_path) == [1]


def test_an_asked_step_that_is_damaged_is_not_replaced_by_another(tmp_path):
    save_steps(tmp_path, [1, 2])
    flip_bit(checkpoint_directory(tmp_path) / "2" / "meta" / "metadata")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match="step 2"):
            checkpoints.restore(template_of(make_state()), step=2)
        with pytest.raises(UserError, match="no checkpoint of step 7; it has 1, 2"):
            checkpoints.restore(template_of(make_state()), step=7)


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path):
    from mae_jax.train import checkpoint_meta as module

    save_steps(tmp_path, [1])
    path = checkpoint_directory(tmp_path) / "1" / "meta" / "metadata"
    path.write_text(json.dumps(module.seal({**read_meta(tmp_path), "format": 99})))
    with pytest.raises(UserError, match="format 99.*Upgrade"):
        read_meta(tmp_path)


ONE_OF_TWO = """
import glob, sys
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", num_processes=2, process_id=int(sys.argv[3]))
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from mae_jax.train.checkpoint import Checkpoints
from mae_jax.train.signals import agree
assert agree(jax.process_index() == 1) and not agree(False)
x = np.random.default_rng(0).normal(size=(80, 1000)).astype(np.float32)
rows = NamedSharding(Mesh(np.array(jax.devices()), ("fsdp",)), PartitionSpec("fsdp"))
state = {"w": jax.make_array_from_callback(x.shape, rows, lambda index: x[index])}
with Checkpoints(sys.argv[1]) as checkpoints:
    for step in (1, 2):
        checkpoints.save(step, state, data={"next": step}, config={})
    checkpoints.wait()
    if jax.process_index() == 0:
        for file in glob.glob(sys.argv[1] + "/checkpoints/2/state/ocdbt.process_1/d/*"):
            data = bytearray(open(file, "rb").read())
            data[5::50] = bytes(byte ^ 9 for byte in data[5::50])
            open(file, "wb").write(data)
    agree(False)
    restored = checkpoints.restore({"w": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)})
    assert restored.step == 1 and restored.data == {"next": 1}, restored
    for shard in restored.state["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, x[shard.index])
    assert checkpoints.save(2, state, data={"next": 2}, config={})
"""


def test_two_processes_agree_that_a_shard_of_one_is_damaged(tmp_path):
    script = tmp_path / "one_of_two.py"
    script.write_text(ONE_OF_TWO)
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    logs = [tmp_path / f"log{i}" for i in range(2)]
    running = []
    for i, path in enumerate(logs):
        with open(path, "w") as log:
            command = [sys.executable, script, tmp_path, str(port), str(i)]
            running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
    try:
        statuses = [process.wait(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    text = [path.read_text() for path in logs]
    assert statuses == [0, 0], text
    assert "another process could not read it" in text[0] and "its arrays cannot be read" in text[1]
    assert saved_steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_write_that_fails_is_a_warning_and_the_next_one_may_succeed(tmp_path, asynchronous, capsys):
    """A limit on the size of files stands in for a full disk; orbax's save() returns True in both cases."""
    big = {"w": jnp.asarray(np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint32))}
    with Checkpoints(tmp_path, keep=1, asynchronous=asynchronous, retry=2) as checkpoints:
        checkpoints.save(1, big, data={"next": 1}, config={})
        checkpoints.settle()
        assert not checkpoints.failed and not checkpoints.owed(9)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            checkpoints.save(2, big, data={"next": 2}, config={})
            checkpoints.wait()
            assert [checkpoints.owed(step) for step in (2, 3, 4)] == [False, False, True]
            checkpoints.save(4, big, data={"next": 4}, config={})
            checkpoints.settle()
            assert [checkpoints.owed(step) for step in (5, 6)] == [False, True]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        said = capsys.readouterr().err
        assert all(f"WARNING: the checkpoint of step {step} could not be written" in said for step in (2, 4))
        assert "step 4" in checkpoints.failed and "free)" in checkpoints.failed
        assert "(1)" in checkpoints.failed  # the one before it is untouched, though only one is kept
        assert checkpoints.steps() == saved_steps(tmp_path) == [1]
        assert not list(checkpoint_directory(tmp_path).glob("*tmp*"))
        assert checkpoints.restore(template_of(big)).data == {"next": 1}
        assert checkpoints.save(2, big, data={"next": 2}, config={})
        assert checkpoints.restore(template_of(big)).data == {"next": 2}
        assert not checkpoints.failed and not checkpoints.owed(99)
        assert checkpoints.steps() == saved_steps(tmp_path) == [2]


def test_what_is_no_array_is_refused_by_name(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match="'step' is a int"):
            checkpoints.save(1, {"step": 1}, data={}, config={})
        with pytest.raises(TypeError, match="'key' is a typed PRNG key"):
            checkpoints.save(1, {"key": jax.random.key(0)}, data={}, config={})
    with pytest.raises(UserError, match="checkpoint.keep is 0"):
        Checkpoints(tmp_path, keep=0)
