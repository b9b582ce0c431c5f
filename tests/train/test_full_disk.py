"""A run whose disk is full: it goes on, keeps what it has, and makes up for it when there is room.

A limit on the size of files is the full disk (every write of more fails, as it does without room); benchmarks/soak.py
fills a small file system.
"""

import functools
import json
import os
import resource
import sys
import threading

import numpy as np
import pytest
from tiny_runs import metrics, tiny

from mae_jax.core import tree
from mae_jax.core.exits import DONE, FAILED
from mae_jax.train import loop
from mae_jax.train.build import Run
from mae_jax.train.checkpoint import Checkpoints, restore_arrays, saved_steps
from mae_jax.train.full_disk import Growing, patient_streams
from mae_jax.train.loop import train
from mae_jax.train.writers import Writers, drop_after

CONFIG = (
    "log.every=1",
    "log.norms=none",
    "log.pictures=1",
    "checkpoint.every=4",
)  # so lines come while there is no room


class Limit:
    """No file may grow over `size` bytes between `on` and `off`, or the end of the block: pytest writes files too."""

    def __enter__(self):
        self.usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        return self

    def __exit__(self, *_):
        self.off()

    def on(self, size=64):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.usual[1]))

    def off(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.usual)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of a run that always had room."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train(tiny(*CONFIG), workdir) == DONE
    return workdir


def at_steps(monkeypatch, what):
    """Let {number: function} happen when so many steps are done; saves are waited for, so that it is known when."""
    put, calls = Run.put, []

    def counted(self, batch):
        calls.append(batch)
        what.get(len(calls) - 1, lambda: None)()
        return put(self, batch)

    monkeypatch.setattr(Run, "put", counted)
    monkeypatch.setattr(loop, "Checkpoints", functools.partial(Checkpoints, asynchronous=False))


def assert_same(workdir, other):
    found, expected = (tree.flatten(restore_arrays(w)) for w in (workdir, other))
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    assert metrics(workdir) == metrics(other)


def test_a_run_goes_on_without_room_and_saves_when_there_is_some(whole, tmp_path, monkeypatch, capsys):
    def check():  # the save of step 8 failed; that of step 4 is there
        assert saved_steps(tmp_path) == [4]
        assert metrics(tmp_path)[-1]["step"] < 8

    with Limit() as limit:
        at_steps(monkeypatch, {6: limit.on, 8: lambda: (limit.off(), check())})
        # The next one out of turn comes one step after the failed one: a quarter of checkpoint.every.
        assert train(tiny(*CONFIG), tmp_path) == DONE
    err = capsys.readouterr().err
    assert "WARNING: the checkpoint of step 8 could not be written" in err and "untouched (4)" in err
    assert "held in memory" in err
    assert saved_steps(tmp_path) == [9, 12]
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if "tmp" in p.name]
    assert_same(tmp_path, whole)


def test_a_last_state_that_finds_no_room_is_a_failure_that_says_so(whole, tmp_path, monkeypatch, capsys):
    with Limit() as limit:
        at_steps(monkeypatch, {10: limit.on})
        status = train(tiny(*CONFIG), tmp_path)
    assert status == FAILED == 1
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert "the last step is done, but the checkpoint of step 12 could not be written" in err
    assert "the same command goes on from the newest checkpoint" in err
    assert saved_steps(tmp_path) == [4, 8] and not (tmp_path / "curves.png").exists()
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 12
    assert train(tiny(*CONFIG), tmp_path) == DONE
    assert_same(tmp_path, whole)


def test_lines_without_room_are_held_in_order(tmp_path, capsys):
    file = Growing(tmp_path / "lines")
    file.write(b"one\n")
    file.flush()
    with Limit() as limit:
        limit.on(6)
        for line in (b"two\n", b"three\n"):
            file.write(line)
            file.flush()
        there = (tmp_path / "lines").read_bytes()
    assert there == b"one\ntw"
    assert capsys.readouterr().err.count("held in memory") == 1
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"one\ntwo\nthree\n"


def test_tensorboard_without_room_stops_nobody(tmp_path):
    """Its thread would end at the first failed write, and whoever logs would wait for ever at the full queue."""
    writers = Writers(tmp_path, tensorboard=True)

    def log():
        for step in range(40):
            writers.scalars(step, {"loss": 1.0})
            writers._tensorboard.flush()

    with Limit() as limit:
        limit.on()
        logging = threading.Thread(target=log, daemon=True)
        logging.start()
        logging.join(60)
    assert not logging.is_alive()
    writers.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.stat().st_size > 40 * 20 and len(metrics(tmp_path)) == 40


def test_a_log_without_room_ends_no_run(tmp_path):
    """stderr of a run is often a file on the disk that is full."""
    with open(tmp_path / "log", "w", buffering=1) as log, Limit() as limit, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", log)
        limit.on(16)
        with patient_streams():
            for _ in range(9):
                print("what a run says", file=sys.stderr, flush=True)
        with pytest.raises(OSError, match="too large"):
            print("and without", file=sys.stderr, flush=True)
        limit.off()
    assert (tmp_path / "log").read_text().startswith("what a run says\n")


def test_lines_of_later_steps_go_without_room(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(9)]
    path.write_text("".join(lines) + '{"step": 9, "lo')
    with Limit() as limit:
        limit.on(8)
        drop_after(path, 4)
    assert path.read_text() == "".join(lines[:5])
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
