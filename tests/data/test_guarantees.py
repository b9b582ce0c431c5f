"""What the input path promises, each promise tested by breaking it for real."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tiny_batches import assert_same, images, take

from mae_jax.core.errors import UserError
from mae_jax.data import batches as batches_module
from mae_jax.data import pipeline
from mae_jax.data import workers as workers_module
from mae_jax.data.order import Shuffled
from mae_jax.data.pipeline import eval_batches, train_batches
from mae_jax.data.sources import Arrays, make_source

CROPS = images((6, 5), 3)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of three rows of CROPS, or of one record with its repeats."""
    monkeypatch.setattr(pipeline, "PART_BYTES", 3 * 6 * 5 * 3 + 1)


def photos(n=11):
    return make_source("photos", "train", {"crops": n})


class Counted(Arrays):
    """Photos that note which records were read."""

    def __init__(self, n):
        rng = np.random.default_rng(0)
        super().__init__(rng.integers(0, 255, (n, 9, 9, 3), np.uint8), np.arange(n), "n")
        self.reads = []

    def image(self, i):
        self.reads.append(i)
        return super().image(i)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_parts_of_a_batch_change_nothing(small_parts, monkeypatch, workers):
    parts = take(4, photos(), CROPS, batch=8, seed=3, workers=workers)
    monkeypatch.undo()
    assert_same(parts, take(4, photos(), CROPS, batch=8, seed=3))


def test_the_last_part_of_an_evaluation_is_marked(small_parts):
    index = [b["index"][b["valid"]] for b in eval_batches(photos(11), CROPS, batch=8)]
    assert np.concatenate(index).tolist() == list(range(11))


def test_a_sequence_goes_on_with_other_workers_and_processes(small_parts):
    whole = take(6, photos(), CROPS, batch=8, seed=3)
    first = take(2, photos(), CROPS, batch=8, seed=3, workers=1)
    left = take(4, photos(), CROPS, batch=8, seed=3, start=2, workers=2, process_count=2, process_index=0)
    right = take(4, photos(), CROPS, batch=8, seed=3, start=2, process_count=2, process_index=1)
    rest = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(left, right, strict=True)]
    assert_same(whole, first + rest)


@pytest.mark.parametrize("processes", [1, 2])
def test_repeats_are_views_of_one_record(small_parts, processes):
    runs = [
        take(5, Counted(10), CROPS, batch=12, seed=1, repeats=3, process_count=processes, process_index=i)
        for i in range(processes)
    ]
    batches = [{k: np.concatenate([r[i][k] for r in runs]) for k in runs[0][0]} for i in range(5)]
    index = np.concatenate([b["index"] for b in batches]).reshape(20, 3)
    assert (index == index[:, :1]).all()  # three in a row are of one record
    assert sorted(index[:10, 0]) == sorted(index[10:, 0]) == list(range(10))  # each once per epoch
    views = np.concatenate([b["image"] for b in batches]).reshape(20, 3, -1)
    assert all(len(np.unique(v, axis=0)) == 3 for v in views)


def test_a_repeated_record_is_read_once(small_parts):
    source = Counted(10)
    plan = pipeline.make_plan(source, [(0, CROPS)], 12, 1, range(12), Shuffled(1, source.parts, 3), repeats=3)
    source.reads.clear()
    index = np.concatenate([plan(part)["index"] for part in range(plan.parts)])
    assert plan.parts == 4 and source.reads == index[::3].tolist()


def test_repeats_must_divide_the_batch():
    with pytest.raises(UserError, match="data.repeats=3"):
        train_batches(photos(), CROPS, batch=8, seed=0, repeats=3)


def test_sizes_change_at_their_batch_wherever_one_starts(small_parts):
    stages = [(0, CROPS), (3, images((12, 10), 3))]
    batches = take(5, photos(), stages, batch=4, seed=0)
    assert [b["image"].shape[1:3] for b in batches] == [(6, 5)] * 3 + [(12, 10)] * 2
    assert_same(batches[4:], take(1, photos(), stages, batch=4, seed=0, start=4))
    assert_same(batches[:1], take(1, photos(), CROPS, batch=4, seed=0))


@pytest.fixture
def half_broken(tmp_path):
    for i in range(40):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i:02}.png")
        if i % 8 == 0:
            (tmp_path / f"{i:02}.png").write_bytes(b"")
    return make_source("folder", "train", {"path": str(tmp_path), "holdout": 0.0})


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_records_end_it_with_their_list(half_broken, workers):
    listed = r"5 of the first 40 .*data.max_bad=0.1(?s:.*)00\.png(?s:.*)32\.png"
    batches = train_batches(half_broken, CROPS, batch=20, seed=0, workers=workers, max_bad=0.1)
    with batches, pytest.raises(UserError, match=listed):
        for _ in range(3):
            next(batches)


def test_a_bad_record_is_named_once_and_counted_each_time(half_broken, capfd):
    with train_batches(half_broken, CROPS, batch=40, seed=0, max_bad=0.125) as batches:
        replaced = [int(next(batches)["replaced"].sum()) for _ in range(4)]
        assert sorted(batches.problems.found) == [0, 8, 16, 24, 32]
    assert replaced == [5] * 4
    assert capfd.readouterr().err.count("passed over") == 5


def test_what_is_computed_ahead_is_bounded(small_parts):
    source = Counted(200)
    with train_batches(source, CROPS, batch=30, seed=0) as batches:
        next(batches)
        before, deadline = -1, time.monotonic() + 20
        while before != len(source.reads) and time.monotonic() < deadline:
            before = len(source.reads)
            time.sleep(0.3)
        ahead = pipeline.AHEAD * 30 + 30 + 3 * (os.cpu_count() or 1) + 3
        assert before <= 1 + 30 + ahead


def killed(batches, count=1):
    """Kill `count` workers of the running `batches`."""
    for child in [p for p in batches.processes if p.is_alive()][:count]:
        os.kill(child.pid, signal.SIGKILL)
        child.join(10)


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "no room in shared memory"])
def test_killed_workers_are_started_again_and_no_sample_is_lost(monkeypatch, capfd, shared):
    """Killed at moments of no choice, which is where locks and half messages would leave the parent waiting."""
    monkeypatch.setattr(batches_module, "RESTARTS", 4)
    if not shared:
        monkeypatch.setattr(workers_module, "_unnamed_file", lambda size: None)
    views = images((64, 64), 3)
    whole = take(60, photos(), views, batch=32, seed=3)
    moments = np.random.default_rng(0)
    with train_batches(photos(), views, batch=32, seed=3, workers=2, memory_mb=64) as batches:
        got, pids = [next(batches)], []
        for _ in range(2):
            time.sleep(moments.uniform(0, 0.03))
            pids.append(batches.processes[0].pid)
            killed(batches)
            got += [next(batches) for _ in range(20)]
        got += [next(batches) for _ in range(60 - len(got))]
    assert_same(whole, got)
    said = capfd.readouterr().err
    assert all(f"process {pid}" in said for pid in pids) and "SIGKILL" in said and "no sample is lost" in said
    assert not batches.processes[0].is_alive()


def test_workers_that_are_killed_again_and_again_are_an_error(small_parts, monkeypatch):
    monkeypatch.setattr(batches_module, "RESTARTS", 0)
    with train_batches(photos(), CROPS, batch=8, seed=3, workers=1) as batches:
        next(batches)
        killed(batches)
        begin = time.monotonic()
        with pytest.raises(UserError, match="SIGKILL.*data.workers"):
            for _ in range(100):
                next(batches)
        assert time.monotonic() - begin < 60  # not a figure of speed: it must end at all


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from mae_jax.data.pipeline import train_batches\n"
        "from mae_jax.data.sources import make_source\n"
        "from mae_jax.data.transforms import HostAugment\n"
        "from mae_jax.data.views import View, Views\n"
        "source = make_source('synthetic', 'train', {'size': 8})\n"
        "views = Views({'image': View(HostAugment((8, 8), 3))})\n"
        "next(train_batches(source, views, batch=4, seed=0, workers=1))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "UserError: a data worker" in done.stderr and "if __name__ == '__main__':" in done.stderr.splitlines()[-1]
