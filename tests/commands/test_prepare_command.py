"""`mae_jax prepare` as a user runs it: killed in the middle, with a full disk, interrupted, and with wrong flags."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.commands.main import main

pytest.importorskip("array_record")
ROOT = Path(__file__).parents[2]
COUNT = 160


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("command") / "photos"
    for i in range(COUNT):
        path = root / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(noise).resize((400, 300)).save(path, quality=90)
    return root


def arguments(photos, target, *more):
    return ["prepare", str(photos), str(target), "--splits", "train", "--config.data.holdout=0.0", "--format", "jpeg",
            "--name", "pets", *more]  # fmt: skip


def start(argv, log, setup=""):
    """The command in a session of its own, so that it and its workers can be killed together."""
    code = (
        f"{setup}\nimport sys\nfrom mae_jax.commands.main import main\nif __name__ == '__main__':\n    sys.exit(main())"
    )
    script = log.with_suffix(".py")
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(log, "w") as file:
        return subprocess.Popen([sys.executable, script, *argv], stdout=file, stderr=file, env=environment,
                                start_new_session=True)  # fmt: skip


# At the top of the script, so that workers run it too: there is time to be stopped in, however busy the machine.
SLOW = """import time
from mae_jax.data.prepare.images import Format
store = Format.__call__
Format.__call__ = lambda *arguments: (time.sleep(0.03), store(*arguments))[1]
"""


def wait_for_shards(target, process, count):
    """Until so many shards are finished."""
    for _ in range(30000):
        if len(list((target / "shards").glob("*.json"))) >= count:
            return
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.002)
    raise AssertionError("no shard was finished")


def state(target):
    files = target.glob("*.array_record-*-of-?????")
    return {p.name: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


def test_killed_in_the_middle_and_started_again(photos, tmp_path, capsys):
    """The finished shards are not touched again, and the end is byte for byte that of an undisturbed run."""
    cut, whole, argv = tmp_path / "cut", tmp_path / "whole", ("--shard-mb", "0.2")
    process = start(arguments(photos, cut, *argv, "--workers", "2"), tmp_path / "log", SLOW)
    wait_for_shards(cut, process, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    noted = {p.stem.split("-")[1] for p in (cut / "shards").glob("*.json")}
    before = {k: v for k, v in state(cut).items() if k.split("-")[2] in noted}
    assert len(before) >= 3 and not (cut / "dataset_info.json").exists()
    assert main(arguments(photos, cut, *argv, "--workers", "0")) == 0
    assert f"{len(before)} of" in capsys.readouterr().err
    assert main(arguments(photos, whole, *argv, "--workers", "0")) == 0
    after, undisturbed = state(cut), state(whole)
    assert len(before) < len(after) and all(after[k] == v for k, v in before.items())
    assert {k: v[0] for k, v in after.items()} == {k: v[0] for k, v in undisturbed.items()}
    for name in ("dataset_info.json", "features.json", "manifest.json", "label.labels.txt"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert not list(cut.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_cleanly_and_says_how_to_go_on(photos, tmp_path, number):
    target, log = tmp_path / "out", tmp_path / "log"
    process = start(arguments(photos, target, "--shard-mb", "0.2", "--workers", "1"), log, SLOW)
    wait_for_shards(target, process, 1)
    # A terminal's Ctrl-C reaches the workers too.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    assert process.wait(60) == 143
    text = log.read_text()
    assert "the same command goes on" in text and "Traceback" not in text
    assert not list(target.rglob("*.tmp")) and not (target / "dataset_info.json").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_full_disk_is_one_paragraph(photos, tmp_path, workers):
    """A limit on the size of files stands in for the disk: the write fails in the same place."""
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"
    log = tmp_path / "log"
    process = start(arguments(photos, tmp_path / "out", "--workers", workers), log, limit)
    assert process.wait(60) == 2
    text = log.read_text()
    assert "cannot be written" in text and "File too large" in text and "Traceback" not in text
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_dry_run_writes_nothing_and_its_estimate_is_near(photos, tmp_path, capsys):
    argv = arguments(photos, tmp_path / "out", "--workers", "0")
    assert main([*argv, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "out").exists() and "free at" in text and f"sample  {COUNT} records, 0" in text
    said = float(text.split("size    about ")[1].split(" MB")[0])
    assert main(argv) == 0
    (shard,) = (tmp_path / "out").glob("*.array_record-*")
    assert abs(shard.stat().st_size / 1e6 - said) < 0.3  # the file is filled up to blocks of 64 KB


def test_rejected_records_decide_the_exit_status(photos, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(9):
        os.link(photos / "a" / f"{2 * i}.jpg", source / f"{i}.jpg")
    (source / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    argv = arguments(source, tmp_path / "out", "--workers", "0")
    assert main(argv) == 1
    out = capsys.readouterr().out
    assert "FAILED: 1 of 10 records" in out and "rejected  train/bad.jpg: it cannot be decoded" in out
    assert main([*argv, "--max-bad", "0.1"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--format", "jpg"], "Did you mean 'jpeg'?"),
        (["--short-sid", "3"], "--short-sid"),
        (["--workers", "-1"], "--workers -1"),
        (["--max-bad", "2"], "--max-bad 2"),
        (["--config.data.holdot=1"], "no field 'holdot'"),
        (["--config.train.steps=1"], "means nothing to `prepare`"),
    ],
)
def test_wrong_flags_are_one_paragraph(photos, tmp_path, capsys, change, message):
    try:
        status = main(["prepare", str(photos), str(tmp_path / "out"), *change])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and "Traceback" not in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "no such directory"), ("foldr:x", "Did you mean 'folder'"), ("sensors:", "--format raw alone")],
)
def test_wrong_sources_are_one_paragraph(tmp_path, capsys, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", source, "out"]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.rglob("*.array_record*"))
