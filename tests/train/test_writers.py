"""metrics.jsonl holds each step once, whatever happened; event files can be read back; wandb is optional. And
the plot.
"""

import io
import json
import math
import sys
import types

import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.train.plots import plot_run, running_median, series
from mae_jax.train.writers import Writers, read_jsonl


def steps_in(workdir):
    return [record["step"] for record in read_jsonl(workdir / "metrics.jsonl")]


def test_lines_are_strict_json_and_read_back_as_numbers(tmp_path):
    values = {"loss": np.float32(0.5), "a": math.nan, "b": math.inf, "c": -math.inf, "n": 3}
    with Writers(tmp_path, tensorboard=False) as writers:
        writers.scalars(1, values)
        text = (tmp_path / "metrics.jsonl").read_text()  # flushed before close
    assert text == '{"step": 1, "loss": 0.5, "a": "nan", "b": "inf", "c": "-inf", "n": 3.0}\n'
    (record,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert math.isnan(record["a"]) and record["b"] == math.inf and record["c"] == -math.inf and record["loss"] == 0.5


@pytest.mark.parametrize("torn", ["", '{"step": 6, "lo', '{"step": 6}', "\xff\xfe"])
def test_a_resumed_run_holds_each_step_once(tmp_path, torn):
    with Writers(tmp_path, tensorboard=False) as writers:
        for step in (1, 2, 3, 4, 5):
            writers.scalars(step, {"loss": math.nan if step == 2 else step})
    with open(tmp_path / "metrics.jsonl", "a", encoding="latin-1") as file:
        file.write(torn)
    with Writers(tmp_path, tensorboard=False, resume_step=3) as writers:
        assert steps_in(tmp_path) == [1, 2, 3]
        writers.scalars(4, {"loss": 40.0})
    assert steps_in(tmp_path) == [1, 2, 3, 4]
    records = read_jsonl(tmp_path / "metrics.jsonl")
    assert math.isnan(records[1]["loss"]) and records[3]["loss"] == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_a_torn_line_at_the_step_of_resumption_does_not_swallow_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss"')
    with Writers(tmp_path, tensorboard=False, resume_step=5) as writers:
        writers.scalars(6, {"loss": 6.0})
    assert steps_in(tmp_path) == [1, 6]


def test_broken_lines_in_the_middle_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2 of .*metrics.jsonl"):
        read_jsonl(path)
    with pytest.raises(UserError, match="does not exist"):
        read_jsonl(tmp_path / "none.jsonl")


def test_an_inactive_process_writes_nothing(tmp_path):
    with Writers(tmp_path / "run", active=False, wandb={"project": "p"}) as writers:
        writers.scalars(1, {"loss": 1.0})
        writers.images(1, "a", np.zeros((2, 2, 3), np.uint8))
    assert not (tmp_path / "run").exists()


def test_tensorboard_files_hold_what_was_written(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    with Writers(tmp_path) as writers:
        for step in (1, 2, 3):
            writers.scalars(step, {"loss": 1 / step})
        writers.images(2, "reconstruction", picture)
    with Writers(tmp_path, resume_step=2) as writers:
        writers.scalars(3, {"loss": 0.125})
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"), purge_orphaned_data=True).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 0.125)]
    (image,) = events.Images("reconstruction")

    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), picture)


@pytest.mark.parametrize("image", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 5), np.uint8)])
def test_pictures_must_be_uint8_images(tmp_path, image):
    with Writers(tmp_path, tensorboard=False) as writers, pytest.raises(ValueError, match="not uint8"):
        writers.images(1, "x", image)


class FakeRun:
    def __init__(self, **arguments):
        self.arguments, self.logged, self.defined, self.finished = arguments, [], [], False
        self.id = arguments["id"] or "abc123"

    def define_metric(self, name, **options):
        self.defined.append((name, options))

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    runs = []

    def init(**arguments):
        runs.append(FakeRun(**arguments))
        return runs[-1]

    fake = types.SimpleNamespace(init=init, Image=lambda image: ("image", image.shape))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    wanted = {"project": "mae", "name": "small"}
    with Writers(tmp_path, tensorboard=False, wandb=wanted, config={"seed": 1}) as writers:
        writers.scalars(1, {"loss": 0.5})
        writers.images(1, "x", np.zeros((2, 2, 3), np.uint8))
    with Writers(tmp_path, tensorboard=False, wandb=wanted, config={"seed": 1}, resume_step=1):
        pass
    first, second = runs
    expected = {"project": "mae", "name": "small", "config": {"seed": 1}, "dir": str(tmp_path), "resume": "allow"}
    assert first.arguments == {**expected, "id": None}
    assert first.logged == [{"step": 1, "loss": 0.5}, {"step": 1, "x": ("image", (2, 2, 3))}]
    assert first.defined == [("step", {}), ("*", {"step_metric": "step"})] and first.finished
    assert second.arguments == {**expected, "id": "abc123"}


def test_missing_wandb_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # makes `import wandb` fail
    with pytest.raises(UserError, match=r"pip install 'mae_jax\[wandb\]'"):
        Writers(tmp_path, wandb={"project": "p"})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot write .*run"):
        Writers(tmp_path / "run", tensorboard=False)


@pytest.mark.parametrize("probes,width", [(False, 900), (True, 1800)])
def test_plot_of_a_run(tmp_path, probes, width):
    with Writers(tmp_path, tensorboard=False) as writers:
        for step in range(1, 301):
            values = {"loss": math.nan if step == 7 else 1 / step, "lr": 1e-3}
            writers.scalars(step, {**values, "probe/knn": step / 400} if probes and step % 50 == 0 else values)
    path = plot_run(tmp_path)
    assert path == tmp_path / "curves.png"
    image = Image.open(path)
    assert image.size == (width, 600)
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50  # something was drawn
    assert series(read_jsonl(tmp_path / "metrics.jsonl"), "loss")[0][5:8] == [6, 8, 9]


def test_nothing_to_plot_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "lr": 0.1}) + "\n")
    with pytest.raises(UserError, match="no 'loss'"):
        plot_run(tmp_path)


def test_running_median():
    assert running_median([5.0, 1.0, 100.0, 3.0, 2.0], 3) == [3.0, 5.0, 3.0, 3.0, 2.5]
