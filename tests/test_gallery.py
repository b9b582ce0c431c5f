"""The gallery: its page, its pictures, and the command that makes both."""

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mae_jax.commands.main import make_parser

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images" / "gallery"


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "benchmarks" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gallery"]


def test_page_and_pictures_are_those_of_the_script(gallery):
    page = (ROOT / "docs" / "gallery.md").read_text()
    pictures = [picture for part in gallery.PARTS for picture in part.pictures]
    for picture in pictures:
        assert f"mae_jax {picture.command}\n```" in page and f"](images/gallery/{picture.file})" in page
        assert picture.text in page
        make_parser().parse_args(shlex.split(picture.command))  # the options are there
    assert {path.name for path in IMAGES.iterdir()} == {picture.file for picture in pictures}
    for name in gallery.RUNS:
        assert f"`{shlex.join(gallery.train_command(name))}`" in page
        assert (ROOT / "configs" / f"{gallery.RUNS[name].config}.py").is_file()


def test_pictures_are_small(gallery):
    sizes = {path.name: path.stat().st_size for path in IMAGES.iterdir()}
    assert max(sizes.values()) <= gallery.LARGEST and sum(sizes.values()) < 2_000_000
    for path in IMAGES.iterdir():
        with Image.open(path) as image:
            assert 200 < image.width <= 2100 and 60 < image.height <= 2000, path.name


def test_too_large_a_picture_is_an_error(gallery, tmp_path):
    import numpy as np

    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8)).save(path)
    with pytest.raises(SystemExit, match="draw fewer"):
        gallery.shrink(path)
    Image.fromarray(np.arange(256, dtype=np.uint8).repeat(20).reshape(64, 80)).save(path)
    before = np.asarray(Image.open(path).convert("RGB"))
    gallery.shrink(path)
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), before)  # grey loses nothing


@pytest.mark.slow
def test_everything_from_nothing(gallery, tmp_path):
    """Two steps of every run, every picture, the page."""
    command = [sys.executable, "benchmarks/gallery.py", "--runs", tmp_path / "runs", "--docs", tmp_path / "docs"]
    done = subprocess.run([*map(str, command), "--steps", "2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    count = sum(len(part.pictures) for part in gallery.PARTS)
    assert len(list((tmp_path / "docs" / "images" / "gallery").iterdir())) == count
    assert (tmp_path / "docs" / "gallery.md").is_file()
