"""array_record files without metadata: written here by the array_record package itself."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage
from mae_jax.data.examples import write_example
from mae_jax.data.sources import make_source, records

module = pytest.importorskip("array_record.python.array_record_module")


def png(value):
    file = io.BytesIO()
    Image.new("L", (3, 2), value).save(file, "png")
    return file.getvalue()


def write(path, values, options="group_size:1", **features):
    """Encoded images, or with features Examples of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = module.ArrayRecordWriter(str(path), options)
    for i in values:
        more = {k: np.array([f(i)]) for k, f in features.items()}
        writer.write(write_example({"image": png(i)} | more) if features else png(i))
    writer.close()


def test_encoded_images_of_any_group_size(tmp_path):
    write(tmp_path / "a.array_record", range(20), "group_size:7")
    write(tmp_path / "deep" / "b.arrayrecord", range(20, 30))
    (tmp_path / "a.array_record.json").write_text("{}")
    parts = [make_source("array_record", s, {"path": str(tmp_path), "holdout": 0.3}) for s in ("train", "test")]
    found = {p.name(i): p[i] for p in parts for i in range(len(p))}
    expected = [f"a.array_record#{i}" for i in range(20)] + [f"deep/b.arrayrecord#{i}" for i in range(10)]
    assert found == {name: {"image": png(i), "label": -1} for i, name in enumerate(expected)}
    assert 1 < len(parts[1]) < 20 and not parts[0].classes and not list(tmp_path.glob(".*"))


def test_examples_with_labels_and_split_names(tmp_path):
    write(tmp_path / "x-train.array_record-00000-of-00002", range(10), label=lambda i: i % 3, other=lambda i: i % 2)
    write(tmp_path / "x-train.array_record-00001-of-00002", range(10, 15), label=lambda i: i % 3, other=lambda i: 1)
    write(tmp_path / "x-val.array_record-00000-of-00001", range(50, 54), label=lambda i: 4, other=lambda i: 1)
    train, test = (make_source("array_record", s, {"path": str(tmp_path)}) for s in ("train", "test"))
    assert [train[i] for i in range(15)] == [{"image": png(i), "label": i % 3} for i in range(15)] and len(train) == 15
    assert [test[i]["image"] for i in range(len(test))] == [png(i) for i in range(50, 54)]
    assert train.classes == test.classes == tuple("01234")  # the largest label of both splits
    assert pickle.loads(pickle.dumps(train))[12] == train[12]
    other = make_source(
        "array_record", "train", {"path": str(tmp_path / "*train*"), "label_key": "other", "holdout": 0.0}
    )
    assert len(other) == 15 and list(other.labels[:4]) == [0, 1, 0, 1]


def test_more_files_than_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "OPEN_FILES", 2)
    for f in range(5):
        write(tmp_path / f"{f}.array_record", range(10 * f, 10 * f + 3))
    source = make_source("array_record", "train", {"path": str(tmp_path), "holdout": 0.0})
    order = np.random.default_rng(0).integers(0, 15, 60).tolist()
    assert all(source[i]["image"] == png(10 * (i // 3) + i % 3) for i in order)
    assert len(source.shards._open) == 2


def test_a_damaged_record_is_a_bad_image_and_unlabelled(tmp_path):
    path = tmp_path / "a.array_record"
    writer = module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    body = [np.random.default_rng(i).bytes(5000) for i in range(6)]
    for i, noise in enumerate(body):
        writer.write(write_example({"image": png(i) + noise, "label": np.array([i])}))
    writer.close()
    data = bytearray(path.read_bytes())
    at = data.find(body[2][1000:1100])
    data[at] ^= 1
    path.write_bytes(data)
    source = make_source("array_record", "train", {"path": str(path), "holdout": 0.0})
    assert list(source.labels) == [0, 1, -1, 3, 4, 5]
    with pytest.raises(BadImage, match="cannot be read.*hash mismatch"):
        source[2]
    assert source[3]["image"] == png(3) + body[3]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": "{tmp}/nothing"}, "there is no such file"),
        ({"path": "{tmp}/empty"}, "holds no file with array_record in its name"),
        ({"path": "{tmp}/mixed"}, "some have train or test.*b.array_record"),
        ({"path": "{tmp}/text.array_record"}, "neither an encoded image nor a tf.train.Example"),
        ({"path": "{tmp}/good.array_record", "image_key": "img"}, "no feature 'img'.*image, k, label"),
        ({"path": "{tmp}/good.array_record", "image_key": "k"}, "no encoded image in 'k'"),
        ({"path": "{tmp}/good.array_record", "label_key": "lable"}, "no feature 'lable'.*'label'"),
        ({"path": "{tmp}/good.array_record", "label_key": "image"}, "holds bytes there, where one whole number"),
        ({"path": "{tmp}/good.array_record", "label_key": "k"}, "no classes"),
        ({"path": "{tmp}/none.array_record"}, "holds no record"),
    ],
)
def test_mistakes_are_named(tmp_path, fields, words):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "mixed" / "a-train.array_record", [1])
    write(tmp_path / "mixed" / "b.array_record", [1])
    write(tmp_path / "good.array_record", range(3), label=lambda i: i, k=lambda i: 10**9)
    write(tmp_path / "none.array_record", [])
    writer = module.ArrayRecordWriter(str(tmp_path / "text.array_record"), "group_size:1")
    writer.write(b"hello")
    writer.close()
    fields = {k: v.format(tmp=tmp_path) for k, v in fields.items()}
    with pytest.raises(UserError, match=f"(?s){words}"):
        make_source("array_record", "train", fields)
