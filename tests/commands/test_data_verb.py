"""`mae_jax data`, as a user starts it."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from tiny_runs import config_file, tiny

from mae_jax.commands.main import main
from mae_jax.config import resolve


def data(tmp_path, config, *argv):
    config = config_file(tmp_path / "config.py", config)
    out = tmp_path / "figures.json"
    status = main(
        ["data", "--config", str(config), "--output", str(tmp_path / "data.png"), "--json", str(out), "--seconds=0.1",
         *argv]
    )  # fmt: skip
    return status, json.loads(out.read_text()) if out.exists() else None


def test_it_shows_samples_labels_ranges_and_stages(tmp_path, capsys):
    status, figures = data(tmp_path, tiny("train.batch=32"), "--count=20")
    said = capsys.readouterr().out
    assert status == 0
    assert "digits" in said and "20 samples" in said and "slowest" in said and "uint8 32x8x8x1" in said
    assert set(figures["seconds_per_sample"]) == {"read", "decode", "augment", "batch", "transfer"}
    assert figures["samples_per_second"] > 0 and figures["slowest"] in figures["seconds_per_sample"]
    picture = np.asarray(Image.open(tmp_path / "data.png").convert("L"))
    assert picture.std() > 20 and picture.shape[1] > picture.shape[0]  # 8 in a row


def test_mean_and_std_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (9, 12, 10, 3), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "9.png").write_bytes(b"no picture")
    config = tiny(
        method=dict(channels=3),
        data=dict(source="folder", path=str(tmp_path), holdout=0.0, max_bad=0.5),
        augment=dict(mean=(0.5,) * 3, std=(0.2,) * 3),
        eval=dict(every=0),
    )
    status, figures = data(tmp_path, config)
    assert status == 0 and figures["images"] == 9
    np.testing.assert_allclose(figures["mean"], images.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(figures["std"], images.std((0, 1, 2)) / 255, rtol=1e-12)


def test_what_holds_no_image_is_still_described(tmp_path, capsys):
    status = main(["data", "--config", "configs/hiendmae/tiny_volumes.py", "--output", str(tmp_path / "d.png"),
                   "--seconds=0.1", "--config.train.batch=8"])  # fmt: skip
    said = capsys.readouterr().out
    assert status == 0 and "volume" in said and not (tmp_path / "d.png").exists()


def test_clips_are_shown_as_strips_with_their_mean(tmp_path, capsys):
    config = dict(
        method=dict(name="videomae", frames=4, image_size=16, patch=8), data=dict(source="moving_digits"),
        augment=dict(video_stride=1, video_crop="centre"), train=dict(batch=8),
    )  # fmt: skip
    status, figures = data(tmp_path, resolve(config), "--count=6")
    assert status == 0 and "uint8 8x4x16x16x3" in capsys.readouterr().out
    sheet = np.asarray(Image.open(tmp_path / "data.png").convert("L"))
    assert sheet.std() > 20 and sheet.shape[1] > 5 * 64  # six strips of four frames in a row
    # A digit of 8 x 8 pixels on a canvas of 16 x 16.
    digits = load_digits().images
    assert figures["images"] == 1000 and abs(figures["mean"][0] - digits.mean() / 16 / 4) < 0.002


@pytest.mark.parametrize("argv", [("--count=0",), ("--config.data.split=x",)])
def test_wrong_arguments_are_answered(tmp_path, argv, capsys):
    status, _ = data(tmp_path, tiny(), *argv)
    assert status == 2 and "mae_jax data:" in capsys.readouterr().err
