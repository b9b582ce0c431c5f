"""`mae_jax draw` and `mae_jax plot` on one tiny run, and on what a user can get wrong."""

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import tiny

from mae_jax.commands.main import main
from mae_jax.eval.pictures import CELL, LINE
from mae_jax.train.loop import train
from mae_jax.weights import store

CELLS = lambda n: n * (CELL + LINE) - LINE


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Three checkpoints and three pictures of a 16-d MAE on digits."""
    path = tmp_path_factory.mktemp("run")
    sections = dict(checkpoint=dict(every=4, keep=3), log=dict(every=2, pictures_every=4, pictures=2))
    assert train(tiny(**sections), path) == 0
    return path


def run(capsys, *argv):
    status = main([str(a) for a in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def size(path):
    with Image.open(path) as image:
        return image.size


def test_training_keeps_a_sheet_of_its_steps(workdir):
    width, height = size(workdir / "pictures" / "steps.png")
    assert width == CELLS(2 + 3) and 0 < height - CELLS(2) < 40
    with (
        Image.open(workdir / "pictures" / "step_00000012.png") as last,
        Image.open(workdir / "pictures" / "steps.png") as all_,
    ):
        cut = lambda image, column: np.asarray(image)[-CELL:, column * (CELL + LINE) :][:, :CELL]
        np.testing.assert_array_equal(cut(last, 3), cut(all_, 4))


@pytest.mark.parametrize(
    "argv,columns,rows",
    [
        (("reconstructions", "--ratios", "0.25,0.75", "--count", 2), 3, 4),
        (("steps", "--count", 2), 2 + 3, 2),
        (("steps", "--steps", "12,4", "--count", 2, "--show", "reconstruction"), 2 + 2, 2),
        (("attention", "--count", 2), 1 + 1 + 2, 2),
        (("attention", "--count", 2, "--blocks", "all", "--query", "0,3"), 1 + 2, 2),
        (("features", "--count", 2, "--block", "-1", "--within"), 5, 2),
    ],
)
def test_every_kind(capsys, workdir, tmp_path, argv, columns, rows):
    path = tmp_path / "a.png"
    status, out, err = run(capsys, "draw", *argv, "--workdir", workdir, "--output", path)
    assert status == 0 and str(path) in out, err
    width, height = size(path)
    labels = argv[0] == "reconstructions"
    assert 0 < height - CELLS(rows) < 60 and (width > CELLS(columns) if labels else width == CELLS(columns))


def test_embedding_goes_to_the_workdir(capsys, workdir):
    status, out, _ = run(capsys, "draw", "embedding", "--workdir", workdir, "--split", "train", "--count", 70)
    assert status == 0 and out.startswith("70 sample(s)")
    assert size(workdir / "embedding.png") == (900, 750)


def test_image_files_and_weights_apart_from_runs(capsys, workdir, tmp_path):
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(tmp_path / "mine.png")
    saved = store.from_workdir(workdir)
    store.write(tmp_path / "all.safetensors", saved)
    whole = ("--weights", tmp_path / "all.safetensors", "--output", tmp_path / "a.png")
    assert run(capsys, "draw", "reconstructions", tmp_path / "mine.png", *whole, "--ratios", "0.5")[0] == 0
    encoder = {"encoder": saved.params["encoder"]}
    only = store.Weights(saved.config, encoder, info=saved.info | {"kind": "encoder"})
    store.write(tmp_path / "encoder.safetensors", only)
    part = ("--weights", tmp_path / "encoder.safetensors", "--output", tmp_path / "b.png")
    assert run(capsys, "draw", "attention", tmp_path / "mine.png", *part)[0] == 0
    status, _, err = run(capsys, "draw", "reconstructions", tmp_path / "mine.png", *part)
    assert status == 2 and "needs the decoder" in err and "encoder alone" in err


@pytest.mark.parametrize(
    "argv,text",
    [
        (("atention",), "'attention'"),
        (("features", "--ratios", "0.5"), "--ratios belongs to"),
        (("reconstructions", "--ratios", "half"), "numbers with commas"),
        (("attention", "--query", "left"), "ROW,COLUMN"),
        (("attention", "--blocks", "mean"), "--heads mean"),
        (("embedding", "a.png"), "of a split"),
        (("features", "--count", "0"), "at least 1"),
        (("steps", "--step", "4"), "--steps N,N"),
        (("features", "--output", "a.jpg"), ".png"),
    ],
)
def test_bad_input_is_refused_before_any_device_work(capsys, monkeypatch, workdir, argv, text):
    monkeypatch.setattr(jax, "devices", lambda *_: pytest.fail("devices were asked for"))
    status, _, err = run(capsys, "draw", *argv, "--workdir", workdir)
    assert status == 2 and text in err


@pytest.mark.parametrize(
    "argv,text",
    [
        (("reconstructions", "--ratios", "1.5"), "mask ratio 1.5"),
        (("steps", "--steps", "4,5"), "no checkpoint of step 5"),
        (("attention", "--heads", "7"), "no head 7"),
        (("features", "/nowhere.png"), "cannot read the image"),
        (("reconstructions", "--show", "codes"), "no picture 'codes'"),
    ],
)
def test_what_a_run_cannot_give(capsys, workdir, argv, text):
    status, _, err = run(capsys, "draw", *argv, "--workdir", workdir, "--count", 2)
    assert status == 2 and text in err


def test_a_single_checkpoint_is_no_comparison(capsys, workdir, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.json", "checkpoints/12"):
        (tmp_path / name).symlink_to(workdir / name)
    status, _, err = run(capsys, "draw", "steps", "--workdir", tmp_path)
    assert status == 2 and "only that of step 12" in err and "checkpoint.keep" in err
    status, _, err = run(capsys, "draw", "steps", "--weights", "x.safetensors")
    assert status == 2 and "of one step" in err


def test_plot(capsys, workdir, tmp_path):
    path = tmp_path / "curves.png"
    status, out, _ = run(capsys, "plot", workdir, workdir, "--metric", "loss", "--metric", "lr", "--x", "hours",
                         "--labels", "a,b", "--output", path)  # fmt: skip
    assert status == 0 and str(path) in out and size(path) == (1800, 600)
    for argv, text in (
        (("--metric", "los"), "'loss'"), (("--log", "z"), "x, y or xy"), (("--smooth", "0"), "at least 1"),
        (("--output", "a.pdf"), ".png"),
    ):  # fmt: skip
        status, _, err = run(capsys, "plot", workdir, *argv)
        assert status == 2 and text in err
