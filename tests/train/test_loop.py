"""Whole runs through `train`: what they write, how they resume, what they refuse, and the verbs that read them."""

import io
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import flip_bits, metrics, tiny, unlabelled

from mae_jax.commands.main import main
from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.train import loop
from mae_jax.train.build import Run, build
from mae_jax.train.checkpoint import restore_arrays, saved_steps
from mae_jax.train.loop import INTERRUPTED, train
from mae_jax.train.warm_start import load_weights, warm_start

FULL = (
    "eval.every=6", "eval.online=('knn','health')", "eval.protocols=('linear','knn','five_shot','health')",
    "eval.lidar_samples=40", "eval.lidar_views=4", "log.pictures_every=6", "optim.average=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a run of 12 steps that nothing disturbed. Tests read it, and copy it to change it."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    assert train(tiny(*FULL), workdir) == 0
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def arrays(workdir, step=None):
    return tree.flatten(restore_arrays(workdir, step))


def assert_same_run(workdir, other):
    found, expected = arrays(workdir), arrays(other)
    assert found.keys() == expected.keys() and int(found["step"]) == int(expected["step"])
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    assert metrics(workdir) == metrics(other)


def before_step(monkeypatch, number, do):
    """Let `do()` happen in the loop when `number` steps are done and the next one is to begin."""
    put, calls = Run.put, []

    def counted(self, batch):
        calls.append(batch)
        if len(calls) == number + 1:
            do()
        return put(self, batch)

    monkeypatch.setattr(Run, "put", counted)


def picture(path):
    """A PNG as an array."""
    with Image.open(path) as image:
        return np.asarray(image)


def kill():
    raise KeyboardInterrupt


# What a run writes ----------------------------------------------------------------------------------------------------


def test_metrics_are_logged_once_per_logged_step(finished):
    lines = metrics(finished)
    losses = {line["step"]: line for line in lines if "loss" in line}
    assert [line["step"] for line in lines if "loss" in line] == [1, 3, 6, 9, 12]
    assert [line["step"] for line in lines if "probe/knn" in line] == [6, 12]
    assert losses[1]["lr"] == 0 and losses[3]["lr"] == pytest.approx(1e-2 * 16 / 256)
    assert losses[12]["loss"] < losses[1]["loss"]
    assert all(set(line) >= {"grad_norm", "lr", "skipped"} for line in losses.values())


def test_results_json(finished):
    results = json.loads((finished / "results.json").read_text())
    assert list(results) == ["linear", "knn", "five_shot", "rankme", "spread", "lidar", "attention_distance"]
    for name, found in results.items():
        sets = {"pretrained", "average", "random", "raw"}  # "average" for optim.average alone
        assert set(found) == (sets - {"raw"} if name in ("lidar", "attention_distance") else sets)
        assert all(isinstance(v, float) and 0 <= v <= 100 for v in found.values())
    assert results["knn"]["raw"] > 80  # 192 images; 10 % would be chance


def test_results_full_json_says_everything_else(finished):
    full = json.loads((finished / "results_full.json").read_text())
    simple = json.loads((finished / "results.json").read_text())
    assert full["weights"]["step"] == 12 and full["data"]["test"]["samples"] == 192
    assert full["protocols"]["knn"]["knn_k"] == [10, 1, 5, 20, 100]
    for name, found in full["results"]["five_shot"]["results"].items():
        assert round(found["accuracy"], 2) == simple["five_shot"][name] and found["interval_95"] > 0
    assert set(full["results"]["knn"]["results"]["raw"]["details"]) == {"k=1", "k=5", "k=10", "k=20", "k=100"}
    heads = [k for k in full["health"]["pretrained"] if k.count("/") == 2]
    assert len(heads) == 2 * 2  # layers times heads


def test_health_is_logged_online(finished):
    (line,) = (line for line in metrics(finished) if line["step"] == 6 and "probe/knn" in line)
    assert 1 <= line["health/rankme"] <= 16 and 1 <= line["health/lidar"] <= 16
    assert 0 < line["health/attention_distance/1"] < 8 * 2**0.5
    assert "health/attention_distance/0/0" not in line and "health/rankme_average" in line


def test_pictures_and_curves_open(finished):
    pictures = sorted(p.name for p in (finished / "pictures").iterdir())
    assert pictures == ["step_00000006.png", "step_00000012.png", "steps.png"]
    first, last, steps = (picture(finished / "pictures" / name) for name in pictures)
    assert first.shape == last.shape and first.shape[0] > 3 * 128 and first.shape[1] > 4 * 128
    assert (first != last).any()
    assert steps.shape[1] > 3 * 128  # the originals, and a column for each of the two
    assert picture(finished / "curves.png").shape[:2] == (600, 1800)  # loss and probes


def test_no_pictures_are_a_run_without_pictures(tmp_path):
    assert train(tiny("train.steps=4", "checkpoint.every=4", "log.pictures=0", "log.pictures_every=2"), tmp_path) == 0
    assert saved_steps(tmp_path) == [4] and not (tmp_path / "pictures").exists()


@pytest.mark.parametrize("part", ["mae_jax.train.loop.spread", "mae_jax.train.probing.Probes.online"])
def test_pictures_and_probes_that_fail_cost_no_checkpoint(part, tmp_path, monkeypatch):
    def broken(*_):
        raise UserError("no record of the test split can be read")

    monkeypatch.setattr(part, broken)
    with pytest.raises(UserError, match="no record"):
        train(tiny("train.steps=4", "checkpoint.every=4", "eval.every=4"), tmp_path)
    assert saved_steps(tmp_path) == [4]


def test_tensorboard_holds_the_loss(finished):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(finished / "tensorboard")).Reload()
    expected = {line["step"]: line["loss"] for line in metrics(finished) if "loss" in line}
    assert {e.step: e.value for e in events.Scalars("loss")} == pytest.approx(expected)
    assert [e.step for e in events.Images("reconstruction")] == [6, 12]


def test_checkpoints_are_kept_by_count(finished):
    assert saved_steps(finished) == [10, 12]


# Interrupted and resumed ----------------------------------------------------------------------------------------------


def test_a_run_that_crashes_goes_on_to_the_same_end(finished, tmp_path, monkeypatch):
    before_step(monkeypatch, 8, kill)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*FULL), tmp_path)
    assert saved_steps(tmp_path) == [5] and metrics(tmp_path)[-1]["step"] == 6  # computed again after step 5
    monkeypatch.undo()
    assert train(tiny(*FULL), tmp_path) == 0
    assert_same_run(tmp_path, finished)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads((finished / "results.json").read_text())


def test_a_signal_saves_and_the_same_command_goes_on(finished, tmp_path, monkeypatch, capsys):
    before_step(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(tiny(*FULL), tmp_path) == INTERRUPTED == 143
    assert saved_steps(tmp_path) == [5, 7] and not (tmp_path / "results.json").exists()
    assert "stopped by SIGTERM after step 7; the same command resumes" in capsys.readouterr().err
    monkeypatch.undo()
    assert train(tiny(*FULL), tmp_path) == 0
    assert "resuming after 7" in capsys.readouterr().err
    assert_same_run(tmp_path, finished)


# orbax gives up at the first unreadable array; the callbacks of the others then find its event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, copy, capsys):
    flip_bits(copy / "checkpoints" / "12")
    assert train(tiny(*FULL), copy) == 0
    err = capsys.readouterr().err
    assert "12 is damaged" in err and "resuming after 10" in err
    assert_same_run(copy, finished)


def test_a_finished_run_only_makes_the_table_again(finished, copy, monkeypatch):
    (copy / "results.json").unlink()
    monkeypatch.setattr(Run, "step", property(lambda self: pytest.fail("trained on")))
    assert train(tiny(*FULL), copy) == 0
    assert (copy / "results.json").read_text() == (finished / "results.json").read_text()
    assert_same_run(copy, finished)


def test_layout_and_logging_may_change_and_a_run_may_grow(copy):
    changes = ("train.steps=14", "mesh.data=2", "mesh.fsdp=4", "mesh.scan=True", "log.every=1", "checkpoint.keep=4",
               "eval.every=0", "eval.protocols=()")  # fmt: skip
    assert train(tiny(*FULL, *changes), copy) == 0
    assert saved_steps(copy) == [10, 12, 14] and [m["step"] for m in metrics(copy)][-2:] == [13, 14]


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    ["optim.learning_rate=0.5", "method.dim=32", "method.norm_pix=True", "train.batch=32", "train.seed=1",
     "augment.mean=(0.5,)", "optim.average=0.0", "train.steps=11", "train.precision=bfloat16", "train.init=elsewhere"],
)  # fmt: skip
def test_another_config_is_refused_by_name(finished, change):
    key, _, value = change.partition("=")
    with pytest.raises(UserError, match=rf"another config.*{key}: .* -> .?{value.strip('(,)')[:3]}") as error:
        train(tiny(*FULL, change), finished)
    assert str(error.value).count(" -> ") == 1


def test_other_data_are_refused(tmp_path):
    config = lambda: tiny("train.steps=2", data=unlabelled(tmp_path / "a.npz", n=32))
    assert train(config(), tmp_path / "run") == 0
    unlabelled(tmp_path / "a.npz", n=33)
    with pytest.raises(UserError, match="data have changed since the checkpoint of step 2.*'length': 30.*'length': 31"):
        train(tiny("train.steps=4", data=dict(source="npz", path=str(tmp_path / "a.npz"))), tmp_path / "run")


@pytest.mark.parametrize(
    "white, mean, said",
    [(255.0, 0.3, True), (1.0, 0.3, False), (255.0, 76.0, False), (2000.0, 76.0, True)],
)
def test_floats_that_the_normalisation_does_not_expect_are_said(tmp_path, capsys, white, mean, said):
    """Of 0 .. 255 with the mean of [0, 1], of counts with another's; with numbers of their own nothing is said."""
    images = np.random.default_rng(0).random((32, 8, 8, 1), np.float32) * np.float32(white)
    np.savez(tmp_path / "a.npz", images=images, test_images=images[:8])
    config = tiny("train.steps=2", f"augment.mean=({mean},)", f"augment.std=({mean * 1.2},)",
                  data=dict(source="npz", path=str(tmp_path / "a.npz")))  # fmt: skip
    assert train(config, tmp_path / "run") == 0
    assert ("the pixels of 'image' are floats" in capsys.readouterr().err) == said


def test_health_needs_no_labels(tmp_path):
    config = tiny("train.steps=2", "eval.every=2", "eval.online=('health',)", "eval.protocols=('health',)",
                  "eval.lidar_samples=20", "eval.lidar_views=2", data=unlabelled(tmp_path / "a.npz"))  # fmt: skip
    assert train(config, tmp_path / "run") == 0
    assert set(json.loads((tmp_path / "run/results.json").read_text())) == {
        "rankme", "spread", "lidar", "attention_distance"
    }  # fmt: skip
    assert any("health/lidar" in line for line in metrics(tmp_path / "run"))


@pytest.mark.parametrize("asked", ["eval.every=2", "eval.protocols=('knn',)"])
def test_probes_without_labels_are_refused_before_training(tmp_path, asked):
    with pytest.raises(UserError, match="no labels.*eval.every=0"):
        train(tiny(asked, data=unlabelled(tmp_path / "a.npz")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_pooling_that_the_encoder_lacks_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="eval.pool='class' reads the class token"):
        train(tiny("eval.every=2", "eval.pool=class", "method.class_token=False"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_large_images_may_be_probed_online_but_not_as_raw_pixels(tmp_path):
    large = ("method.image_size=256", "method.patch=64", "eval.every=2")
    run = build(tiny(*large))
    loop.Probes.check(run, run.open("train"), run.open("test"))
    run = build(tiny(*large, "eval.protocols=('knn',)"))
    with pytest.raises(UserError, match="eval.raw"):
        loop.Probes.check(run, run.open("train"), run.open("test"))


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="run as --workdir"):
        train(tiny(), tmp_path / "run")


# Starting from other weights ------------------------------------------------------------------------------------------


def test_warm_start_takes_the_weights_and_nothing_else(finished, tmp_path):
    config = tiny("train.seed=5", "train.steps=2", "optim.learning_rate=0.0", f"train.init={finished}", "eval.batch=8")
    run = build(config)
    state, saved = jax.device_get(warm_start(run, str(finished))), arrays(finished)
    assert int(state["step"]) == 0 and int(state["guard"]["skipped"]) == 0
    for path, leaf in tree.flatten(state["params"]).items():
        np.testing.assert_array_equal(leaf, saved[f"params/{path}"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state["opt"]))
    assert train(config, tmp_path) == 0  # at a rate of 0 the weights stay
    for path, leaf in arrays(tmp_path).items():
        if path.startswith("params/"):
            np.testing.assert_array_equal(leaf, saved[path], err_msg=path)


def test_warm_start_refuses_what_does_not_fit(finished, tmp_path):
    with pytest.raises(UserError, match=r"do not fit.*params/decoder"):
        warm_start(build(tiny("method.decoder_dim=12")), str(finished))
    with pytest.raises(UserError, match="no checkpoint"):
        load_weights(build(tiny()), tmp_path)


# The verbs that read a run --------------------------------------------------------------------------------------------


def test_evaluate(finished, copy, capsys):
    (copy / "results.json").unlink()
    assert main(["evaluate", "--workdir", str(copy), "--protocol", "linear,knn,five_shot,health"]) == 0
    assert (copy / "results.json").read_text() == (finished / "results.json").read_text()
    out = capsys.readouterr().out
    assert "step 12" in out and "kNN, k = 10" in out and "attention distance" in out
    identity = json.loads((copy / "results_full.json").read_text())["weights"]
    assert identity["kind"] == "pretraining" and len(identity["content"]) == 16
    assert len(list((copy / "features").glob("*/done.json"))) == 8  # 4 sets, 2 splits
    other = copy / "other.json"
    assert main(["evaluate", "--workdir", str(copy), "--protocols", "knn", "--step", "10", "--output", str(other)]) == 0
    assert set(json.loads(other.read_text())) == {"knn"} and (copy / "other_full.json").is_file()
    assert (copy / "results.json").read_text() == (finished / "results.json").read_text()


def test_evaluate_refuses(finished, capsys):
    for argv, message in (
        (["--protocols", "kn"], "'knn'"),
        (["--step", "7"], "it has 10, 12"),
        (["--protocol", "linear,fintune"], "'finetune'"),
        (["--config.eval.pool=median"], "eval.pool"),
        (["--config.eval.shots=()", "--protocol", "few_shot"], "eval.shots"),
        (["--config.eval.lidar_views=1", "--protocol", "health"], "at least 2 views"),
        (["--output", "results.txt"], "ends in .json"),
    ):
        assert main(["evaluate", "--workdir", str(finished), *argv]) == 2
        assert message in capsys.readouterr().err
    assert main(["evaluate", "--workdir", str(finished / "none")]) == 2
    assert "is no run" in capsys.readouterr().err


def test_reconstruct_the_test_split(finished, tmp_path):
    one, two, other = (tmp_path / name for name in ("1.png", "2.png", "3.png"))
    command = ["reconstruct", "--workdir", str(finished), "--count", "2", "--output"]
    assert main([*command, str(one)]) == main([*command, str(two)]) == main([*command, str(other), "--draw", "1"]) == 0
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    assert picture(one).shape[1] > 4 * 128


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_reconstruct_image_files(finished, tmp_path, capsys):
    rng, files = np.random.default_rng(0), {}
    for name, shape in (("small", (8, 8)), ("wide", (40, 90)), ("colour", (33, 20, 3))):
        files[name] = tmp_path / f"{name}.png"
        files[name].write_bytes(png(rng.integers(0, 255, shape, np.uint8)))
    out = tmp_path / "out.png"
    command = ["reconstruct", "--workdir", str(finished), "--output", str(out)]
    assert main([*command, *map(str, files.values())]) == 0
    assert "3 sample(s) at step 12" in capsys.readouterr().out and picture(out).shape[0] > 3 * 128


def test_reconstruct_draws_depths_of_8_and_16_bits_alike(finished, tmp_path):
    """The same picture in 8 and in 16 bits, in one command: the rows of the grid agree."""
    image = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    (tmp_path / "8.png").write_bytes(png(image))
    (tmp_path / "16.png").write_bytes(png(image.astype(np.uint16) * 257))
    out = tmp_path / "out.png"
    names = [str(tmp_path / name) for name in ("8.png", "16.png")]
    assert main(["reconstruct", "--workdir", str(finished), "--output", str(out), *names]) == 0
    grid = picture(out).astype(int)[:, :128]  # the column of originals
    assert np.abs(grid[-128:] - grid[-258:-130]).max() <= 1


def test_reconstruct_names_the_file_that_it_cannot_use(finished, tmp_path, capsys):
    (tmp_path / "good.png").write_bytes(png(np.zeros((9, 9), np.uint8)))
    (tmp_path / "bad.png").write_bytes(png(np.zeros((9, 9), np.uint8))[:40])
    for name, message in (("bad.png", "cannot use the image"), ("none.png", "cannot read the image")):
        assert main(["reconstruct", "--workdir", str(finished), str(tmp_path / "good.png"), str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert message in err and name in err and "Traceback" not in err
    assert main(["reconstruct", "--workdir", str(finished), "--count", "0"]) == 2
    assert "--count" in capsys.readouterr().err


def test_sizes_may_change_along_a_run_and_it_resumes_over_the_change(tmp_path, monkeypatch):
    config = tiny("train.sizes=((0, 4), (6, 8))")
    assert train(config, tmp_path / "whole") == 0
    sizes = []
    before_step(monkeypatch, 8, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(config, tmp_path / "parts")
    monkeypatch.undo()
    put = Run.put
    monkeypatch.setattr(Run, "put", lambda self, batch: sizes.append(batch["image"].shape[1]) or put(self, batch))
    assert train(config, tmp_path / "parts") == 0
    assert sizes == [4] + [8] * 6 + sizes[7:]  # from the checkpoint of step 5
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize(
    ("sizes", "method", "word"),
    [("((2, 4),)", {}, "from 0"), ("((0, 5),)", {}, "patch"), ("((0, 4), (0, 8))", {}, "rising")],
)
def test_sizes_that_cannot_be_are_refused(sizes, method, word):
    with pytest.raises(UserError, match=word):
        build(tiny(f"train.sizes={sizes}"))


def test_records_that_cannot_be_read_are_listed_in_the_workdir(tmp_path):
    for i in range(24):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 9 * i, np.uint8)).save(path)
    (tmp_path / "data" / "a" / "04.png").write_bytes(b"")
    data = {"source": "folder", "path": str(tmp_path / "data"), "max_bad": 0.2}
    for _ in range(2):
        assert train(tiny(data=data), tmp_path / "run") == 0
    (line,) = (tmp_path / "run" / "bad_records.txt").read_text().splitlines()
    assert "04.png" in line
    assert sum(m["data/replaced"] for m in metrics(tmp_path / "run")) >= 4
