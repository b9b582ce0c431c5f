"""`mae_jax checkpoint`, as a user starts it, on a run whose checkpoints are broken for real."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.commands.main import main
from mae_jax.train.checkpoint import Checkpoints, saved_steps


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir with the checkpoints 1 to 4, of which 2 is the best."""
    workdir = tmp_path_factory.mktemp("made")
    with Checkpoints(workdir, keep=4) as checkpoints:
        for step in (1, 2, 3, 4):
            array = np.random.default_rng(step).normal(size=5000)
            checkpoints.save(
                step, {"w": jnp.asarray(array, jnp.float32)}, data={}, config={"checkpoint": {"best": "knn"}},
                metrics={"knn": 0.9 if step == 2 else 0.1 * step},
            )  # fmt: skip
    return workdir


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def flip(run, step):
    """A bit of the array of a checkpoint."""
    files = (run / "checkpoints" / str(step) / "state").glob("ocdbt.process_0/d/*")
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


def said(capsys, *argv):
    """(exit status, stdout, stderr)."""
    status = main(["checkpoint", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def states(capsys, run):
    """{step: state} of the list."""
    _, out, _ = said(capsys, "list", run)
    return {int(line.split()[0]): line.split()[4] for line in out.splitlines()[1:-1]}


def test_list_and_verify(run, capsys):
    status, out, _ = said(capsys, "list", run)
    assert status == 0 and "4 checkpoint(s)" in out and "knn 0.9" in out and "kB" in out
    assert states(capsys, run) == dict.fromkeys((1, 2, 3, 4), "unknown")
    assert said(capsys, "verify", run, "--step", 4)[0] == 0
    assert states(capsys, run) == {1: "unknown", 2: "unknown", 3: "unknown", 4: "good"}
    flip(run, 4)
    (run / "checkpoints" / "3" / "meta" / "metadata").write_bytes(b"")
    assert states(capsys, run) == {1: "unknown", 2: "unknown", 3: "damaged", 4: "unknown"}
    status, out, _ = said(capsys, "verify", run)
    assert status == 1 and "damaged: 4, 3" in out and "step 2: good" in out
    assert "step 4: DAMAGED" in out and "step 3: DAMAGED: its metadata" in out
    assert states(capsys, run) == {1: "good", 2: "good", 3: "damaged", 4: "unknown"}
    status, out, err = said(capsys, "verify", run, "--step", 9)
    assert status == 2 and "it has 1, 2, 3, 4" in err
    assert said(capsys, "list", run / "nowhere")[0] == 2


def test_prune(run, capsys):
    flip(run, 4)
    checkpoints = run / "checkpoints"
    (checkpoints / "5.orbax-checkpoint-tmp").mkdir()
    shutil.copytree(checkpoints / "4", checkpoints / "0.damaged")
    before = sorted(p.name for p in checkpoints.iterdir())
    status, out, _ = said(capsys, "prune", run)
    assert (
        status == 0
        and "add --yes" in out
        and sorted(set(before) | {".verified.json"}) == sorted(p.name for p in checkpoints.iterdir())
    )
    assert out.count("may go") == 3 and "4 (" in out and "5.orbax-checkpoint-tmp" in out and "0.damaged" in out
    assert said(capsys, "prune", run, "--yes")[0] == 0
    assert sorted(p.name for p in checkpoints.iterdir() if p.is_dir()) == ["1", "2", "3"]
    status, out, _ = said(capsys, "prune", run, "--keep", 1, "--yes")
    assert status == 0 and saved_steps(run) == [2, 3]  # the newest good one, and the best
    assert "2: good, and the best" in out and "gone   1 " in out
    assert said(capsys, "prune", run, "--keep", 0)[0] == 2


def test_prune_never_takes_the_last_good_one(run, capsys):
    for step in (2, 3, 4):
        flip(run, step)
    assert said(capsys, "prune", run, "--keep", 1, "--yes")[0] == 0
    assert saved_steps(run) == [1]
    flip(run, 1)
    status, out, _ = said(capsys, "prune", run, "--yes")
    assert saved_steps(run) == [1] and "there is no good one" in out


def test_prune_refuses_while_a_run_is_writing_there(run, capsys):
    with Checkpoints(run, keep=4):
        status, _, err = said(capsys, "prune", run, "--yes")
        assert status == 2 and "is writing checkpoints" in err
        assert said(capsys, "list", run)[0] == said(capsys, "verify", run)[0] == 0
    assert said(capsys, "prune", run)[0] == 0
