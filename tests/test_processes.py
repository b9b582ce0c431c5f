"""`mae_jax train` as real processes: stopped and killed in the middle, two of them as one run, one of them at fault."""

import json
import resource
import signal
import time

import numpy as np
import pytest
from tiny_runs import config_file, metrics, start, tiny, together

from mae_jax.core import tree
from mae_jax.core.exits import RESTART
from mae_jax.train.checkpoint import restore_arrays, saved_steps

pytestmark = pytest.mark.slow
LIMIT = 300  # seconds until a test gives a process up


def arrays(workdir):
    return tree.flatten(restore_arrays(workdir))


def wait_for(process, happened):
    """Wait until `happened()`, while the process lives."""
    until = time.monotonic() + LIMIT
    while not happened():
        assert process.poll() is None, f"the process ended too early, with status {process.returncode}"
        assert time.monotonic() < until
        time.sleep(0.005)


def logged(workdir):
    """The last step whose metrics are on disk."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
    except FileNotFoundError:
        return 0


def finish(processes):
    """Wait for all -> their exit statuses; none is left behind."""
    try:
        return [process.wait(timeout=LIMIT) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_stopped_and_killed_it_ends_as_if_it_had_not_been(tmp_path):
    """SIGTERM, the same command, kill -9, the same command: the weights and the log of a run that was left alone."""
    config = config_file(tmp_path / "tiny.py", tiny("train.steps=400", "checkpoint.every=50", "log.every=10"))
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def begin(workdir):
        return start("train", "--config", config, "--workdir", workdir, log=tmp_path / f"{workdir.name}.log")

    reference, stopped = begin(whole), begin(broken)
    try:
        wait_for(stopped, lambda: logged(broken) >= 60)
        stopped.send_signal(signal.SIGTERM)
        assert finish([stopped, reference]) == [143, 0], (tmp_path / "broken.log").read_text()
        (at,) = [step for step in saved_steps(broken) if step % 50]
        assert 60 <= at < 400
        killed = begin(broken)
        wait_for(killed, lambda: max(saved_steps(broken)) // 50 > at // 50 and logged(broken) % 50 >= 10)
        killed.kill()
        assert killed.wait(LIMIT) == -signal.SIGKILL and max(saved_steps(broken)) < 400
        assert finish([begin(broken)]) == [0], (tmp_path / "broken.log").read_text()
    finally:
        for process in (reference, stopped):
            process.kill()
    found, expected = arrays(broken), arrays(whole)
    assert found.keys() == expected.keys() and int(found["step"]) == 400
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    assert metrics(broken) == metrics(whole)


def test_two_processes_are_one(tmp_path):
    """2 processes x 4 devices against 1 x 8, with an online probe, pictures, checkpoints, the table, and a resume.

    First with fsdp inside of each process, then resumed with fsdp over all devices, across both.
    """
    every = ("eval.every=2", "eval.protocols=('knn',)", "log.every=1", "log.pictures_every=2", "checkpoint.every=2",
             "train.microbatches=2", "mesh.fsdp=2", "optim.average=0.5", "optim.warmup=0")  # fmt: skip

    def begin(workdir, steps, count, *others):
        config = config_file(tmp_path / "tiny.py", tiny(*every, f"train.steps={steps}", *others))
        argv = ("train", "--config", config, "--workdir", tmp_path / workdir)
        return together(*argv, count=count, log=tmp_path / workdir, devices=8 // count)

    def said(workdir):
        return "\n".join(path.read_text()[-4000:] for path in tmp_path.glob(f"{workdir}.*.log"))

    assert finish(begin("one", 4, 1)) == [0], said("one")
    assert finish(begin("two", 4, 2)) == [0, 0], said("two")
    assert "2 process(es)" in (tmp_path / "two.0.log").read_text()
    assert "step" not in (tmp_path / "two.1.log").read_text()  # one of them speaks

    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in two] == [line["step"] for line in one] == [1, 2, 2, 3, 4, 4]
    for expected, found in zip(one, two, strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():  # of 192 neighbours one may change sides
            np.testing.assert_allclose(found[name], value, **({"atol": 0.6} if "probe" in name else {"rtol": 1e-4}))
    expected, found = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    assert expected.keys() == found.keys()
    for path, array in expected.items():
        if path.startswith("params/") and not path.endswith("qkv/bias"):  # a key's bias gets rounding for a gradient
            np.testing.assert_allclose(found[path], array, atol=1e-4, err_msg=path)
    for name in ("results.json", "curves.png", "pictures/step_00000002.png", "pictures/step_00000004.png"):
        assert (tmp_path / "two" / name).is_file(), name
    results = json.loads((tmp_path / "two/results.json").read_text())
    assert set(results["knn"]) == {"pretrained", "average", "random", "raw"}

    assert finish(begin("two", 6, 2, "mesh.fsdp=8")) == [0, 0], said("two")  # it resumes, and grows
    assert saved_steps(tmp_path / "two") == [4, 6] and metrics(tmp_path / "two")[: len(two)] == two
    assert finish(begin("one", 6, 1)) == [0], said("one")
    for expected, found in zip(
        metrics(tmp_path / "one")[len(one) :], metrics(tmp_path / "two")[len(two) :], strict=True
    ):
        np.testing.assert_allclose(found.get("loss", 0), expected.get("loss", 0), rtol=1e-4)


def test_two_processes_evaluate_like_one(tmp_path):
    """Cached features, their shards, kNN and linear probe on 2 x 2 devices, health, a trained probe: as on 1 x 4."""
    from mae_jax.train.loop import train

    assert train(tiny("train.steps=2", "optim.warmup=0"), tmp_path / "run") == 0
    few = ("transfer.probe_augment=False", "transfer.probe_epochs=2.0", "transfer.probe_warmup=1.0",
           "transfer.probe_batch=64", "transfer.probe_learning_rate=30.0", "eval.limit=256", "eval.random=False",
           "eval.lidar_samples=24", "eval.lidar_views=2")  # fmt: skip

    def begin(count):
        return together(
            "evaluate", "--workdir", tmp_path / "run", "--protocol", "linear,knn,few_shot,health,linear_paper",
            "--cache", tmp_path / f"cache{count}", "--output", tmp_path / f"results{count}.json",
            *(f"--config.{key}" for key in few), count=count, log=tmp_path / str(count), devices=4 // count,
        )  # fmt: skip

    for count in (1, 2):
        assert finish(begin(count)) == [0] * count, (tmp_path / f"{count}.0.log").read_text()[-4000:]
    one, two = (json.loads((tmp_path / f"results{count}.json").read_text()) for count in (1, 2))
    assert one.keys() == two.keys() >= {"linear", "knn", "few_shot_5", "lidar", "linear_paper"}
    for name, found in one.items():
        for column, value in found.items():
            assert two[name][column] == pytest.approx(value, abs=1.2, rel=1e-3), (name, column)
    shards = [sorted(p.name for p in (tmp_path / f"cache{n}").glob("*/*-*.npz")) for n in (1, 2)]
    assert len(shards[1]) == 2 * len(shards[0]) > 0


def test_processes_that_hold_the_same_rows_evaluate_like_one(tmp_path):
    """tensor over two processes: kNN on features of which the cache holds every sample once."""
    from mae_jax.train.loop import train

    assert train(tiny("train.steps=2", "optim.warmup=0"), tmp_path / "run") == 0

    def begin(count):
        return together(
            "evaluate", "--workdir", tmp_path / "run", "--protocol", "knn", f"--config.mesh.tensor={count}",
            "--config.eval.random=False", "--cache", tmp_path / f"cache{count}",
            "--output", tmp_path / f"results{count}.json", count=count, log=tmp_path / str(count),
        )  # fmt: skip

    for count in (1, 2):
        assert finish(begin(count)) == [0] * count, (tmp_path / f"{count}.0.log").read_text()[-4000:]
    one, two = (json.loads((tmp_path / f"results{count}.json").read_text())["knn"] for count in (1, 2))
    assert two == {column: pytest.approx(value, abs=0.6) for column, value in one.items()}  # one neighbour of 192
    shards = [sorted(p.name for p in (tmp_path / f"cache{n}").glob("*/*-*.npz")) for n in (1, 2)]
    assert shards[0] == shards[1] != []


SLOWLY = """
import time
from mae_jax.train.build import Run
put = Run.put
Run.put = lambda *arguments: (time.sleep(0.2), put(*arguments))[1]
"""


def test_another_number_of_processes_goes_on_with_the_same_data(tmp_path):
    """2 processes x 4 devices, killed; 1 x 2; killed; 2 x 1: the losses of one process with 8 that is left alone."""

    def begin(workdir, count, devices, *keys, before=""):
        all_keys = ("checkpoint.every=4", "log.every=1", "train.steps=14", "optim.warmup=0", *keys)
        config = config_file(tmp_path / f"{workdir}.py", tiny(*all_keys))
        argv = ("train", "--config", config, "--workdir", tmp_path / workdir)
        return together(*argv, count=count, log=tmp_path / workdir, devices=devices, before=before)

    assert finish(begin("whole", 1, 8)) == [0]
    parts = tmp_path / "parts"
    for done, (count, devices, keys) in {4: (2, 4, ("mesh.fsdp=4",)), 8: (1, 2, ())}.items():
        running = begin("parts", count, devices, *keys, before=SLOWLY)
        try:
            wait_for(running[0], lambda done=done: max(saved_steps(parts), default=0) >= done)
        finally:
            for process in running:
                process.kill()
                process.wait(LIMIT)
        assert done <= max(saved_steps(parts)) < 14  # in the middle
    assert finish(begin("parts", 2, 1)) == [0, 0], (tmp_path / "parts.0.log").read_text()[-4000:]
    expected, found = metrics(tmp_path / "whole"), metrics(parts)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(expected, found):
        np.testing.assert_allclose(other.get("loss", 0), one.get("loss", 0), rtol=2e-4)
    said = (tmp_path / "parts.0.log").read_text()
    assert said.count("; resuming after ") == 2, said[-4000:]


def test_a_save_that_one_process_cannot_write_stops_nobody(tmp_path):
    """One host's disk is full (no file of it may grow): both warn, both train on, and the save is made up for."""
    keys = ("checkpoint.every=20", "checkpoint.keep=9", "log.every=5", "train.steps=400", "mesh.fsdp=2")
    config = config_file(tmp_path / "tiny.py", tiny(*keys))
    run = tmp_path / "run"
    both = together("train", "--config", config, "--workdir", run, count=2, log=run)
    usual = resource.prlimit(both[1].pid, resource.RLIMIT_FSIZE)
    said = lambda i: (tmp_path / f"run.{i}.log").read_text()
    warned = lambda i: "could not be written" in said(i)
    try:
        wait_for(both[0], lambda: saved_steps(run))
        # Its log is such a file as well; what it has no room to say is lost, and no error.
        resource.prlimit(both[1].pid, resource.RLIMIT_FSIZE, (len(said(1)) + 2000, usual[1]))
        wait_for(both[0], lambda: warned(0))
        before = logged(run)
        wait_for(both[0], lambda: logged(run) >= before + 10)
        assert both[1].poll() is None
        there = saved_steps(run)
        resource.prlimit(both[1].pid, resource.RLIMIT_FSIZE, usual)
        wait_for(both[0], lambda: max(saved_steps(run)) > max(there))
        assert finish(both) == [0, 0], said(0) + said(1)
    finally:
        finish(both)
    assert "could not be written" in said(0) and "process 1: " in said(0) and "Training goes on" in said(0)
    assert "(20)" in said(0) or "(20, " in said(0)  # those that stay
    assert saved_steps(run)[-1] == 400 and not list((run / "checkpoints").glob("*tmp*"))
    for step in saved_steps(run):
        restore_arrays(run, step)  # compares the hashes


BENT = """
import functools, jax, numpy as np
from mae_jax.train.build import Run
usual = Run.step.func

def step(self):
    run = usual(self)

    def bent(state, *rest):
        state, metrics = run(state, *rest)
        if int(state["step"]) == 7 and jax.process_index() == 1:
            kernel = state["params"]["decoder"]["pred"]["kernel"]
            pieces = [np.array(shard.data) for shard in kernel.addressable_shards]
            pieces[0].view(np.uint32)[0, 0] ^= 1
            pieces = [jax.device_put(x, shard.device) for x, shard in zip(pieces, kernel.addressable_shards)]
            state["params"]["decoder"]["pred"]["kernel"] = jax.make_array_from_single_device_arrays(
                kernel.shape, kernel.sharding, pieces)
        return state, metrics

    return bent

Run.step = functools.cached_property(step)
Run.step.__set_name__(Run, "step")
"""


def test_a_host_whose_weights_went_astray_is_named_and_its_state_is_not_saved(tmp_path):
    """A bit flips in one copy of one array, on a device of process 1, after step 7."""
    config = config_file(tmp_path / "tiny.py", tiny("guard.parity=3", "checkpoint.every=6", "train.steps=24"))
    run = tmp_path / "run"
    begin = lambda before: together("train", "--config", config, "--workdir", run, count=2, devices=2, log=run,
                                    before=before)  # fmt: skip
    assert finish(begin(BENT)) == [RESTART] * 2
    said = (tmp_path / "run.0.log").read_text()
    assert "not the same after step 9" in said and "of process 1 (host " in said, said[-4000:]
    assert "differ(s) from the other 3 copies" in said and "the same command resumes" in said
    assert saved_steps(run) == [6]
    assert finish(begin("")) == [0, 0] and saved_steps(run)[-1] == 24
