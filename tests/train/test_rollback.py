"""Whole runs whose numbers go wrong: skipped, rolled back to other data, given up with what is needed to look at it."""

import json
import os
import signal

import numpy as np
import pytest
from tiny_runs import metrics, tiny

from mae_jax.commands.main import main
from mae_jax.core import tree
from mae_jax.core.exits import DONE, GIVEN_UP, INTERRUPTED
from mae_jax.train.build import Run, build
from mae_jax.train.checkpoint import restore_arrays, saved_steps
from mae_jax.train.feed import train_batches
from mae_jax.train.loop import train

CONFIG = ("log.every=1", "guard.skips=2", "eval.protocols=()", "checkpoint.keep=3")


def changed(monkeypatch, change, then=lambda number: None):
    """Let `change(number of the put, host batch)` say by what each batch's images are multiplied."""
    put, calls = Run.put, []

    def broken(self, batch):
        calls.append(batch["index"].copy())
        then(len(calls) - 1)
        image = batch["image"].astype(np.float32) / 255 * np.float32(change(len(calls) - 1, batch))
        return put(self, batch | {"image": image})

    monkeypatch.setattr(Run, "put", broken)
    return calls


def indices(config, start, stop, order=0):
    """The records of batches [start, stop) in an order of the data."""
    run = build(config)
    with train_batches(run, run.open("train"), start, order) as batches:
        return [next(batches)["index"] for _ in range(start, stop)]


def test_single_broken_batches_are_passed_over(tmp_path, monkeypatch):
    changed(monkeypatch, lambda number, _: np.nan if number in (3, 5, 7) else 1)
    assert train(tiny(*CONFIG), tmp_path) == DONE
    lines = metrics(tmp_path)
    assert [m["skipped"] for m in lines] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert [m["loss"] for m in lines].count("nan") == 3 and not (tmp_path / "guard").exists()


@pytest.fixture(scope="module")
def bad_data():
    """Records whose batches 6 and 7 (steps 7 and 8), in the run's own order, are broken."""
    return [set(index.tolist()) for index in indices(tiny(*CONFIG), 6, 8)]


def test_a_streak_goes_back_to_other_data_and_a_signal_in_between_changes_nothing(tmp_path, monkeypatch, bad_data):
    change = lambda number, batch: np.nan if set(batch["index"].tolist()) in bad_data else 1
    with monkeypatch.context() as patch:
        calls = changed(patch, change)
        assert train(tiny(*CONFIG), tmp_path / "whole") == DONE
    expected = [*indices(tiny(), 0, 9), *indices(tiny(), 5, 12, order=1)]  # found out while step 9 was under way
    assert len(calls) == len(expected)
    for found, due in zip(calls, expected):
        np.testing.assert_array_equal(found, due)
    lines = metrics(tmp_path / "whole")
    assert [m["step"] for m in lines] == list(range(1, 13)) and lines[-1]["skipped"] == 0
    (line,) = map(json.loads, (tmp_path / "whole/guard/rollbacks.jsonl").read_text().splitlines())
    assert (line["from"], line["until"], line["to"], line["order"]) == (7, 8, 5, 1) and line["metrics"]["loss"] == "nan"

    with monkeypatch.context() as patch:  # once in the streak, once right after the roll-back
        stop = lambda number: number in (6, 9) and os.kill(os.getpid(), signal.SIGTERM)
        changed(patch, change, stop)
        parts = tmp_path / "parts"
        assert [train(tiny(*CONFIG), parts) for _ in range(3)] == [INTERRUPTED, INTERRUPTED, DONE]
    assert metrics(parts) == lines
    found, whole = (tree.flatten(restore_arrays(workdir)) for workdir in (parts, tmp_path / "whole"))
    for path, array in whole.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_a_run_is_given_up_with_all_that_is_needed_to_replay_it(tmp_path, capsys):
    """A rate that throws the weights away breaks every step after the first, whatever the data."""
    run = tiny(*CONFIG, "guard.rollbacks=1", "optim.warmup=0", "optim.learning_rate=1e30", "log.norms=parts")
    assert train(run, tmp_path) == GIVEN_UP
    said = capsys.readouterr().err
    assert "not finite" in said and "optim.clip=1" in said and f"mae_jax replay {tmp_path} 2" in said
    about = json.loads((tmp_path / "guard/step_2.json").read_text())
    assert about["step"] == 2 and about["rollbacks"] == 1 and about["loss"] == "nan"
    assert set(about["grad_norm_of_parts"]) >= {"encoder/blocks", "decoder/blocks"}
    (second,) = indices(run, 1, 2, order=1)
    assert [sample["record"] for sample in about["samples"]] == second.tolist()
    with np.load(tmp_path / "guard/step_2.npz") as saved:
        np.testing.assert_array_equal(saved["index"], second)
        assert saved["image"].shape == (16, 8, 8, 1)
    assert main(["replay", str(tmp_path), "2", "--output", str(tmp_path / "out.json")]) == 1
    said = capsys.readouterr().out
    assert "to the bit" in said and "It begins forward" in said and about["samples"][0]["name"] in said
    assert json.loads((tmp_path / "out.json").read_text())["samples"] == [s["name"] for s in about["samples"]]


def test_a_healthy_step_is_replayed_to_the_bit(tmp_path, capsys):
    assert train(tiny(*CONFIG), tmp_path) == DONE
    before = sorted(tmp_path.rglob("*"))
    assert main(["replay", str(tmp_path), "8"]) == 0
    said = capsys.readouterr().out
    loss = next(m["loss"] for m in metrics(tmp_path) if m["step"] == 8)
    assert f"loss {loss!r}" in said and "to the bit" in said and "from the checkpoint of step 5" in said
    assert sorted(tmp_path.rglob("*")) == before and saved_steps(tmp_path) == [5, 10, 12]
    assert main(["replay", str(tmp_path), "13"]) == 2 and "no step 13" in capsys.readouterr().err


def test_a_spike_is_skipped_on_the_device(tmp_path, monkeypatch):
    changed(monkeypatch, lambda number, _: 1000 if number == 10 else 1)
    assert train(tiny(*CONFIG, "guard.spike=5.0", "guard.spike_window=8"), tmp_path / "on") == DONE
    lines = metrics(tmp_path / "on")
    assert [m["skipped"] for m in lines] == [0] * 10 + [1, 1] and 5 * lines[9]["loss"] < lines[10]["loss"] < 1e30
    assert lines[11]["loss"] < 2 * lines[9]["loss"]
