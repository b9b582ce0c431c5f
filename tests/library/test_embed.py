"""`mae_jax embed`: every image once, under its name; bad ones counted; the file whole or not at all."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import mae_jax
from mae_jax.commands.main import main
from mae_jax.library import embed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """21 grey images of several sizes in two classes, one of them broken."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(20):
        path = root / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8 + i % 3, 8, 1), np.uint8)[..., 0]).save(path)
    (root / "cat/broken.png").write_bytes(b"\x89PNG nothing")
    return root


def run(workdir, folder, out, *more):
    source = ("--source", f"folder:{folder}", "--config.data.max_bad=0.2", "--batch", "8")
    return main([str(a) for a in ("embed", "--workdir", workdir, "--out", out, *source, *more)])


def test_both_files_hold_what_encode_gives(workdir, model, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embed, "ROW_GROUP_BYTES", 1)  # a row group per batch
    assert run(workdir, folder, tmp_path / "f.npz", "--tokens") == 0
    assert run(workdir, folder, tmp_path / "f.parquet", "--tokens") == 0
    out = capsys.readouterr().out
    assert out.count("20 vectors of 16 numbers") == 2 and "1 image(s) could not be read" in out
    assert "cat/broken.png" in (tmp_path / "f.npz.bad.txt").read_text()

    npz, file = np.load(tmp_path / "f.npz"), pq.ParquetFile(tmp_path / "f.parquet")
    assert file.num_row_groups == 3
    table = file.read()
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("??.png"))
    assert npz["name"].tolist() == table["name"].to_pylist() == names
    assert npz["class"].tolist() == table["class"].to_pylist() == [n[:3] for n in names]
    assert npz["label"].tolist() == table["label"].to_pylist() == [int(n < "dog") ^ 1 for n in names]
    assert set(npz["split"]) == {"train"}
    expected = model.encode([folder / name for name in names])
    np.testing.assert_allclose(npz["features"], expected.pooled(), atol=1e-5)
    np.testing.assert_allclose(npz["tokens"], expected.normed, atol=1e-5)
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), npz["features"])
    np.testing.assert_array_equal(np.array(table["tokens"].to_pylist(), np.float32).reshape(20, 16, 16), npz["tokens"])
    about = json.loads(file.schema_arrow.metadata[b"mae_jax"])
    assert about["pool"] == "mean" and about["shapes"]["tokens"] == [16, 16] and about["mae_jax"] == mae_jax.__version__


def test_nothing_is_left_of_a_file_that_was_not_finished(workdir, folder, tmp_path, capsys):
    out = tmp_path / "f.parquet"
    assert run(workdir, folder, out, "--config.data.max_bad=0.0") == 2
    assert "more than data.max_bad=0 allows" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv, message",
    [
        (("--out", "f.csv"), "the ending says what is written, .npz or .parquet"),
        (("--out", "no/such/f.npz"), "its directory is missing"),
        (("--out", "f.npz", "--source", "foldr:x"), "Did you mean 'folder'?"),
        (("--out", "f.npz", "--source", "no/such/dir"), "there is no such directory"),
        (("--out", "f.npz", "--pool", "tokens"), "no vector per image"),
        (("--out", "f.npz", "--batch", "0"), "--batch 0"),
    ],
)
def test_what_cannot_be_is_refused(workdir, capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", "--workdir", str(workdir), *argv]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
