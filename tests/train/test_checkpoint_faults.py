"""Checkpoints are broken for real: any file in any way, kill -9 at random moments of saves, two runs in one workdir."""

import gc
import os
import random
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from test_checkpoint import make_state, same, save_steps, template_of

from mae_jax.core.errors import UserError
from mae_jax.train.checkpoint import Checkpoints, restore_arrays, saved_steps


def break_file(path: Path, how: str, rng: random.Random) -> str:
    """Damage one file -> what was done."""
    content = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
        return f"{path} deleted"
    if how == "flip":
        position = rng.randrange(8 * len(content))
        content[position // 8] ^= 1 << position % 8
    else:
        position = rng.randrange(len(content)) if how == "truncate" else 0
        del content[position:]
    path.write_bytes(content)
    return f"{path}: {how} at {position} of {len(content)}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of two good checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    save_steps(folder, [1, 2])
    return folder


# When one array cannot be decoded, tensorstore finishes the others' reads after orbax has closed its event
# loop: noise, no harm.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("rounds", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_whatever_happens_to_a_file_no_wrong_value_comes_back(whole, tmp_path, capsys, rounds):
    """Every file of the newest checkpoint, orbax's own among them, in one of four ways each round. Either nothing was
    lost, or the older checkpoint is read; it says which file or array is wrong; what comes back is always right.
    """
    rng, ways = random.Random(rounds), ("flip", "truncate", "delete", "empty")
    newest = whole / "checkpoints" / "2"
    files = [p.relative_to(whole) for p in sorted(newest.rglob("*")) if p.is_file()]
    assert len(files) >= 12
    data = max((f for f in files if f.parent.name == "d"), key=lambda f: (whole / f).stat().st_size)
    fell_back = set()
    for number in range(rounds):
        jobs = [(file, ways[(place + number) % 4]) for place, file in enumerate(files)]
        for file, way in [*jobs, *((data, way) for way in ways)]:
            broken = Path(shutil.copytree(whole, tmp_path / "broken"))
            said = break_file(broken / file, way, rng)
            with Checkpoints(broken) as checkpoints:
                restored = checkpoints.restore(template_of(make_state()))
            same(restored.state, make_state(restored.step))
            assert restored.data == {"next": 10 * restored.step}, said
            err = capsys.readouterr().err
            assert ("2 is damaged: " in err) == (restored.step == 1), (said, err)
            if restored.step == 1:
                fell_back.add(str(file.relative_to("checkpoints/2")))
                assert saved_steps(broken) == [1] and (broken / "checkpoints" / "2.damaged").is_dir()
            shutil.rmtree(broken)
    assert fell_back >= {str(data.relative_to("checkpoints/2")), "meta/metadata", "state/manifest.ocdbt"}, fell_back
    gc.collect()  # so that the noise is heard here and not in the next test


def test_one_flipped_bit_names_the_array_to_verbs_too(whole, tmp_path, capsys):
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    meta = broken / "checkpoints" / "2" / "meta" / "metadata"
    text = meta.read_text()
    meta.write_text(text.replace('"next": 20', '"next": 21'))  # the position of the data
    assert meta.read_text() != text
    np.testing.assert_array_equal(restore_arrays(broken)["step"], 1)
    assert "does not match its checksum" in capsys.readouterr().err
    meta.write_text(text.replace('"seed": 3', '"seed": 2'))  # the config
    np.testing.assert_array_equal(restore_arrays(broken)["step"], 1)
    assert "does not match its checksum" in capsys.readouterr().err


def test_damaged_ones_do_not_pile_up(whole, tmp_path):
    """One is kept aside for whoever wants to know; more would fill the disk."""
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    for step in range(3, 6):
        with Checkpoints(broken) as checkpoints:
            checkpoints.save(step, make_state(step), data={}, config={})
        (broken / "checkpoints" / str(step) / "meta" / "metadata").write_bytes(b"")
        with Checkpoints(broken) as checkpoints:
            assert checkpoints.restore(template_of(make_state())).step == 2
        names = sorted(p.name for p in (broken / "checkpoints").iterdir() if p.is_dir() and not p.name.isdigit())
        assert names == [f"{step}.damaged"]


KILLS = """
import ctypes, os, random, signal, sys, time
from pathlib import Path
os.environ["JAX_PLATFORMS"] = "cpu"
import numpy as np
import orbax.checkpoint
from mae_jax.train.checkpoint import Checkpoints

workdir, rounds = Path(sys.argv[1]), int(sys.argv[2])

def bits(step):  # what does not compress, and takes a while to write
    return np.random.default_rng(step).integers(0, 2**32, 2_000_000, dtype=np.uint32)

def work():
    "Restore, compare with what was saved, and save one step after the other until killed."
    import jax
    template = {"w": jax.ShapeDtypeStruct((2_000_000,), np.uint32), "step": jax.ShapeDtypeStruct((), np.int32)}
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.restore(template)
        step = 0 if found is None else found.step
        if found is not None:
            assert found.data == {"position": step} and int(found.state["step"]) == step
            np.testing.assert_array_equal(np.asarray(found.state["w"]), bits(step))
        (workdir / "resuming").write_text(str(step))
        (workdir / "resuming").rename(workdir / "resumed")
        while True:
            step += 1
            state = {"w": jax.device_put(bits(step)), "step": jax.device_put(np.int32(step))}
            assert checkpoints.save(step, state, data={"position": step}, config={})
            checkpoints.settle()
            assert not checkpoints.failed

rng, torn, last = random.Random(rounds), 0, 0
for number in range(rounds):
    (workdir / "resumed").unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive this one
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(9)
    until = time.monotonic() + 120
    while not (workdir / "resumed").exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), f"round {number}: it could not resume"
        assert time.monotonic() < until
        time.sleep(0.01)
    resumed = int((workdir / "resumed").read_text())
    assert resumed >= last, f"round {number}: back at {resumed}, after {last} was saved"
    def wait_for(happened):
        until = time.monotonic() + 120
        while not happened():
            assert time.monotonic() < until and os.waitpid(pid, os.WNOHANG) == (0, 0)
            time.sleep(0.001)
    if number % 2 == 0:  # get on by a checkpoint at least, however slow the machine
        wait_for(lambda: (workdir / "checkpoints" / str(resumed + 1)).exists())
    wait_for(lambda: list((workdir / "checkpoints").glob("*tmp*")))
    time.sleep(rng.uniform(0, 0.4))
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    entries = [p.name for p in (workdir / "checkpoints").iterdir() if p.is_dir()]
    last = max((int(name) for name in entries if name.isdigit()), default=0)
    torn += any("tmp" in name for name in entries)
    assert len(entries) <= 4 and sum("tmp" in name for name in entries) <= 1, entries
print("torn", torn, "last", last)
"""


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_of_saves(tmp_path, rounds):
    """Each time the newest finished checkpoint is there, right in every bit, and nothing is left but one torn save."""
    script = tmp_path / "kills.py"
    script.write_text(textwrap.dedent(KILLS))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path), str(rounds)]
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            status = running.wait(timeout=60 + 30 * rounds)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, 9)
                running.wait(timeout=60)
    said = (tmp_path / "log").read_text()
    assert status == 0, said[-4000:]
    _, torn, _, last = next(line.split() for line in said.splitlines()[::-1] if line.startswith("torn "))
    assert int(torn) >= rounds // 4, "nearly every save was over before the kill: little was tested"
    assert saved_steps(tmp_path)[-1] == int(last) > 0


def test_two_runs_do_not_write_into_one_workdir(tmp_path):
    """A second process is refused while the first one lives; kill -9 lets go."""
    code = "import sys, time; from pathlib import Path; from mae_jax.train.checkpoint_lock import Lock\n" \
           "Lock(Path(sys.argv[1])).take(); print('held', flush=True); time.sleep(60)"  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    (tmp_path / "checkpoints").mkdir()
    command = [sys.executable, "-c", code, tmp_path / "checkpoints"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on .* is writing checkpoints"):
            Checkpoints(tmp_path, wait=0.1)
    finally:
        holder.kill()
        holder.communicate(timeout=60)
    save_steps(tmp_path, [1])
    save_steps(tmp_path, [2])  # and a run that ended has let go
    assert saved_steps(tmp_path) == [1, 2]
