"""Learning curves of several runs: what is drawn is what they logged."""

import json

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.train.compare import compare, curves_of, labels, read_run


def write(path, *, steps=range(10, 101, 10), batch=32, rate=64.0, loss=lambda step: 1 / step, **method):
    """A run as training leaves it: a line per logged step, and a probe at every fifth."""
    path.mkdir(parents=True)
    with open(path / "metrics.jsonl", "w") as file:
        for step in steps:
            line = {"step": step, "loss": loss(step), "images_per_second": rate}
            file.write(json.dumps(line) + "\n")
            if step % 50 == 0:
                file.write(json.dumps({"step": step, "probe/knn": step / 2}) + "\n")
    config = {"method": {"name": "mae", "mask_ratio": 0.75} | method, "train": {"batch": batch, "seed": 0},
              "log": {"every": len(list(steps))}}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def runs(tmp_path):
    """Different lengths, batches and rates."""
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", steps=range(10, 51, 10), batch=64, rate=32.0, mask_ratio=0.5)
    return [read_run(a), read_run(b)]


def test_series_are_those_of_metrics_jsonl(runs):
    for run, (x, y) in zip(runs, curves_of(runs, "loss"), strict=True):
        lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        assert [(r["step"], r["loss"]) for r in lines if "loss" in r] == list(zip(x, y))


def test_samples_and_hours(runs):
    (a, _), (b, _) = curves_of(runs, "probe/knn", "samples")
    assert a.tolist() == [50 * 32, 100 * 32] and b.tolist() == [50 * 64]
    (a, _), (b, _) = curves_of(runs, "probe/knn", "hours")
    np.testing.assert_allclose(a, np.array([50, 100]) * 32 / 64 / 3600)
    np.testing.assert_allclose(b, np.array([50]) * 64 / 32 / 3600)


def test_lines_in_the_figure(runs):
    figure = compare(runs, ["loss", "probe/knn"], x="samples", smooth=3, log="xy")
    loss, probe = figure.axes
    assert (loss.get_xscale(), loss.get_yscale()) == ("log", "log")
    raw, smooth = loss.lines[0], loss.lines[1]
    np.testing.assert_allclose(raw.get_ydata(), curves_of(runs, "loss")[0][1])
    assert smooth.get_ydata()[1] == raw.get_ydata()[1]  # the median of a falling curve's three
    assert [line.get_label() for line in probe.lines[1::2]] == labels(runs)
    assert probe.get_title("left") == "probe/knn" and probe.get_xlabel() == "samples seen"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels(runs)


def test_short_runs_are_drawn_in_minutes(runs):
    axes = compare(runs, x="hours").axes[0]
    assert axes.get_xlabel() == "minutes of training"
    np.testing.assert_allclose(axes.lines[0].get_xdata()[-1], 100 * 32 / 64 / 60)


def test_labels_say_what_differs(tmp_path):
    named = lambda *paths: labels([read_run(path) for path in paths])
    a = write(tmp_path / "a")
    assert named(a) == ["a"]
    assert named(a, write(tmp_path / "b", mask_ratio=0.5)) == ["mask_ratio 0.75", "mask_ratio 0.5"]
    both = write(tmp_path / "c", mask_ratio=0.5, batch=64)
    assert named(a, both) == ["mask_ratio 0.75, batch 32", "mask_ratio 0.5, batch 64"]
    assert named(a, write(tmp_path / "d", steps=range(1, 5))) == ["a", "d"]  # `log` alone: no curve differs by it
    other = write(tmp_path / "e", name="lut", momentum=0.99)
    assert named(a, other) == ["method.name mae", "method.name lut"]
    same = named(a, write(tmp_path / "far" / "a"))
    assert len(set(same)) == 2 and same[1] == "far/a"
    (tmp_path / "d" / "config.json").unlink()
    assert named(a, tmp_path / "d") == ["a", "d"]


def test_what_cannot_be_drawn_is_said(runs, tmp_path, capsys):
    with pytest.raises(UserError, match="none of the runs .*'los'.*'loss'"):
        compare(runs, ["los"])
    with pytest.raises(UserError, match="--x hour: Did you mean 'hours'"):
        compare(runs, x="hour")
    with pytest.raises(UserError, match="1 label.* 2 run"):
        compare(runs, names=["one"])
    with pytest.raises(UserError, match="has no config.json"):
        (runs[1].path / "config.json").unlink()
        compare([runs[0], read_run(runs[1].path)], x="hours")
    negative = read_run(write(tmp_path / "n", loss=lambda step: 1 - step / 20))
    with pytest.raises(UserError, match="0 or below"):
        compare([negative], log="y")
    silent = read_run(write(tmp_path / "s", steps=range(1, 4)))
    compare([runs[0], silent], ["probe/knn"])
    assert "no 'probe/knn': s" in capsys.readouterr().err
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path)
    (tmp_path / "n" / "config.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        read_run(tmp_path / "n")
