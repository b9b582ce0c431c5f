"""Parquet files in the layout of Hugging Face datasets, written by pyarrow."""

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage
from mae_jax.data.sources import make_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["tench", "goldfish", "shark"]


def image(i):
    return b"image %d" % i * 20


def write(path, numbers, names=NAMES, rows=4, struct=True, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = list(numbers)
    images = [{"bytes": image(i), "path": f"{i}.jpg"} if struct else image(i) for i in numbers]
    columns = {"image": images, "label": [i % 3 for i in numbers]} | columns
    table = pa.table(columns)
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)


def test_the_layout_of_hugging_face(tmp_path):
    for s in range(3):
        write(tmp_path / "data" / f"train-{s:05}-of-00003.parquet", range(s * 10, s * 10 + 10))
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", range(30, 37))
    train, test = (make_source("parquet", s, {"path": str(tmp_path)}) for s in ("train", "test"))
    assert train.classes == test.classes == tuple(NAMES)
    for source, numbers in ((train, range(30)), (test, range(30, 37))):
        assert [source[i] for i in range(len(source))] == [{"image": image(i), "label": i % 3} for i in numbers]
    assert train.name(23) == "train-00002-of-00003.parquet#3" or train.name(23) == "data/train-00002-of-00003.parquet#3"
    assert "row group of about 3 rows" in train.describe() and "mae_jax prepare" in train.describe()


def test_holdout_binary_column_and_texts(tmp_path):
    write(
        tmp_path / "x.parquet", range(100), names=None, struct=False, label=["b" if i % 2 else "a" for i in range(100)]
    )
    train, test = (make_source("parquet", s, {"path": str(tmp_path), "holdout": 0.2}) for s in ("train", "test"))
    found = {s.name(i): (s[i]["image"], s.classes[s[i]["label"]]) for s in (train, test) for i in range(len(s))}
    assert found == {f"x.parquet#{i}": (image(i), "ab"[i % 2]) for i in range(100)} and 8 < len(test) < 35


def test_threads_and_a_cache_of_one_row_group(tmp_path):
    write(tmp_path / "x.parquet", range(200), rows=7)
    source = make_source("parquet", "train", {"path": str(tmp_path), "holdout": 0.0, "cache_mb": 0})
    order = np.random.default_rng(0).integers(0, 200, 600).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.image, order)) == [image(i) for i in order]
    assert len(source._groups._kept) == 1
    copy = pickle.loads(pickle.dumps(source))
    assert copy.image(150) == image(150) and len(pickle.dumps(source)) < 200 * 30 + 2000


def test_a_row_group_is_read_once_while_it_is_kept(tmp_path, monkeypatch):
    write(tmp_path / "x.parquet", range(40), rows=10)
    source = make_source("parquet", "train", {"path": str(tmp_path), "holdout": 0.0})
    read = []
    original = source._read
    monkeypatch.setattr(source, "_read", lambda group: read.append(group) or original(group))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(source.image, [0, 15, 25, 35, 1, 11] * 20))
    assert sorted(read) == [0, 1, 2, 3]


def test_unlabelled_rows_and_missing_bytes(tmp_path):
    write(tmp_path / "a" / "x.parquet", range(5), label=[0, 1, -1, 2, 0])
    source = make_source("parquet", "train", {"path": str(tmp_path / "a"), "holdout": 0.0})
    assert source.classes == () and set(source.labels) == {-1}
    images = [{"bytes": None, "path": "/x/0.jpg"}, {"bytes": b"1", "path": None}]
    write(tmp_path / "b" / "x.parquet", range(2), image=images)
    source = make_source("parquet", "train", {"path": str(tmp_path / "b"), "holdout": 0.0})
    assert source.image(1) == b"1"
    with pytest.raises(BadImage, match="no bytes"):
        source.image(0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_key": "imag"}, "image_key='imag'.*'image'"),
        ({"image_key": "label"}, "is int64.*struct<bytes"),
        ({"label_key": "lable"}, "label_key='lable'.*'label'"),
        ({"label_key": "image"}, "whole numbers or texts"),
        ({"path": "{tmp}/bad"}, "no whole Parquet file"),
        ({"path": "{tmp}/none"}, "no file ending in .parquet"),
    ],
)
def test_mistakes_are_named(tmp_path, fields, words):
    write(tmp_path / "good" / "x.parquet", range(3))
    for name in ("bad", "none"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "x.parquet").write_bytes(b"PAR1 cut off")
    fields = {"path": "{tmp}/good"} | fields
    fields = {k: v.format(tmp=tmp_path) for k, v in fields.items()}
    with pytest.raises(UserError, match=f"(?s){words}"):
        make_source("parquet", "train", fields)


def test_without_pyarrow_the_command_is_named(tmp_path, monkeypatch):
    write(tmp_path / "x.parquet", range(3))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        make_source("parquet", "train", {"path": str(tmp_path)})
