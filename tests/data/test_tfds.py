"""Prepared TFDS directories: what we read equals what TFDS itself reads; TFRecord trees; damage is named."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage, decode
from mae_jax.data.examples import write_example
from mae_jax.data.sources import make_source, tfrecord
from mae_jax.data.sources.record_index import cache_places, index_shards

array_record = pytest.importorskip("array_record.python.array_record_module")
NAMES = ("ant", "bee", "cow")
SIZES = {"train": 23, "test": 7, "validation": 5}


def jpeg(seed, size=(9, 8)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """{kind: directory} of sets that TFDS wrote itself: JPEGs with classes, and raw pixels of every encoding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfds = pytest.importorskip("tensorflow_datasets")
        root, features = tmp_path_factory.mktemp("tfds"), tfds.features
        raw = {
            f"{e}{'_'.join(map(str, shape))}": features.Tensor(shape=shape, dtype=np.uint16, encoding=e)
            for e, shape in (("bytes", (None, None, 2)), ("zlib", (6, None, 2)), ("none", (6, 4, 2)), ("zlib", (6, 4)))
        }

        class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")

            def _split_generators(self, _):
                return {split: self._generate_examples(split, n) for split, n in self.sizes.items()}

        class Jpegs(Made):
            name, sizes = "jpegs", SIZES

            def _info(self):
                label = features.ClassLabel(names=NAMES)
                inner = features.FeaturesDict({"thumb": features.Image(), "count": np.int64})
                shown = {
                    "image": features.Image(shape=(None, None, 3)),
                    "label": label,
                    "inner": inner,
                    "mass": np.float32,
                }
                return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(shown))

            def _generate_examples(self, split, n):
                for i in range(n):
                    thumb = io.BytesIO(jpeg(500 + i, (4, 4)))
                    yield f"{split}{i}", {"image": io.BytesIO(jpeg(i)), "label": i % 3, "mass": 0.5,
                                          "inner": {"thumb": thumb, "count": i % 5}}  # fmt: skip

        class Raw(Made):
            name, sizes = "raw", {"train": 12}

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(raw | {"k": np.int64}))

            def _generate_examples(self, split, n):
                for i in range(n):
                    pixels = np.random.default_rng(i).integers(0, 65536, (6, 4, 2), np.uint16)
                    yield i, {key: pixels if len(f.shape) == 3 else pixels[..., 0] for key, f in raw.items()} | {"k": 3}

        for builder in (Jpegs, Raw):
            builder(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def theirs(root, split="train"):
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()} if "jpegs" in str(root) else None
    return tfds.builder_from_directory(root).as_data_source(split, decoders=decoders)


@pytest.mark.parametrize(("split", "stored"), [("train", "train"), ("test", "test"), ("val", "validation")])
@pytest.mark.filterwarnings("ignore")
def test_records_are_those_of_tfds_in_its_order(prepared, split, stored):
    root = prepared / "jpegs"
    ours, expected = make_source("tfds", split, {"path": str(root)}), theirs(root / "1.0.0", stored)
    assert len(ours) == len(expected) == SIZES[stored] and ours.classes == NAMES and ours.shuffled
    for i, record in enumerate(expected):
        assert ours[i] == {"image": record["image"], "label": record["label"]}
    copy = pickle.loads(pickle.dumps(ours))
    assert copy[3] == ours[3] and copy.name(3) == f"jpegs-{stored}.array_record-00000-of-00001#3"
    assert f"{SIZES[stored]} records (encoded images) in 1 array_record files, 3 classes" in ours.describe()


@pytest.mark.filterwarnings("ignore")
def test_raw_pixels_of_every_encoding(prepared):
    root = prepared / "raw" / "1.0.0"
    expected = theirs(root)
    keys = [k for k in expected[0] if k != "k"]
    assert len(keys) == 4
    for key in keys:
        parts = [make_source("tfds", s, {"path": str(root), "image_key": key}) for s in ("train", "test")]
        assert len(parts[0]) + len(parts[1]) == 12 and len(parts[1]) >= 1 and parts[0].classes == ()
        for part in parts:
            for i, number in enumerate(part.numbers):
                np.testing.assert_array_equal(part[i]["image"], expected[int(number)][key])
                assert part[i]["image"].dtype == np.uint16


def test_other_features_by_name(prepared):
    source = make_source("tfds", "train", {"path": str(prepared / "jpegs"), "image_key": "inner/thumb",
                                           "label_key": "inner/count"})  # fmt: skip
    assert decode(source[0]["image"], 3).shape == (4, 4, 3) and source.classes == tuple("01234")
    plain = make_source("tfds", "train", {"path": str(prepared / "jpegs"), "label_key": ""})
    assert plain.classes == () and set(plain.labels) == {-1}


def test_found_by_name_and_by_the_highest_version(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared / "jpegs" / "1.0.0", tmp_path / "jpegs" / "conf" / "9.0.0")
    shutil.copytree(prepared / "jpegs" / "1.0.0", tmp_path / "jpegs" / "conf" / "10.0.0")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert make_source("tfds", "train", {"name": "jpegs"}).where(0).startswith(str(tmp_path / "jpegs/conf/10.0.0/"))
    nine = make_source("tfds", "train", {"name": "jpegs/conf:9.0.0", "data_dir": str(tmp_path)})
    assert "/9.0.0/" in nine.where(0)
    shutil.copytree(tmp_path / "jpegs" / "conf", tmp_path / "jpegs" / "other")
    with pytest.raises(UserError, match="several data sets .conf, other."):
        make_source("tfds", "train", {"name": "jpegs"})


def test_neither_tensorflow_nor_tfds_is_imported(prepared):
    code = (
        "import sys; from mae_jax.data.sources import make_source\n"
        f"make_source('tfds', 'train', dict(path={str(prepared / 'jpegs')!r}))[0]\n"
        "sys.exit(', '.join({'tensorflow', 'tensorflow_datasets', 'jax', 'grain'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# TFRecord -------------------------------------------------------------------------------------------------------------


def frame(record):
    """A record as TensorFlow frames it, with checksums of google-crc32c."""
    crc32c = pytest.importorskip("google_crc32c").value

    def masked(data):
        crc = crc32c(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)

    head = struct.pack("<Q", len(record))
    return head + masked(head) + record + masked(record)


@pytest.fixture
def tree(prepared, tmp_path):
    """The JPEG set as a TFRecord tree: the same Examples, the training records in two files."""
    root, old = tmp_path / "jpegs" / "1.0.0", prepared / "jpegs" / "1.0.0"
    root.mkdir(parents=True)
    info = json.loads((old / "dataset_info.json").read_text()) | {"fileFormat": "tfrecord"}
    for split in info["splits"]:
        name = f"jpegs-{split['name']}"
        reader = array_record.ArrayRecordReader(str(old / f"{name}.array_record-00000-of-00001"))
        records = reader.read_all()
        reader.close()
        parts = [records[:10], records[10:]] if split["name"] == "train" else [records]
        split["shardLengths"] = [str(len(p)) for p in parts]
        for i, part in enumerate(parts):
            (root / f"{name}.tfrecord-{i:05d}-of-{len(parts):05d}").write_bytes(b"".join(map(frame, part)))
    (root / "dataset_info.json").write_text(json.dumps(info))
    for name in ("features.json", "label.labels.txt"):
        shutil.copy(old / name, root)
    return root


def test_crc32c_is_castagnolis():
    """The check value of the CRC catalogue, and google-crc32c on lengths as they are framed."""
    assert tfrecord._slow_crc32c(b"123456789") == 0xE3069283
    google = pytest.importorskip("google_crc32c")
    for n in (0, 1, 255, 2**40 + 7):
        assert tfrecord._slow_crc32c(struct.pack("<Q", n)) == google.value(struct.pack("<Q", n))


def test_tfrecord_tree_equals_the_array_records(prepared, tree):
    for split in ("train", "test"):
        ours, same = (make_source("tfds", split, {"path": str(p)}) for p in (tree, prepared / "jpegs"))
        assert [ours[i] for i in range(len(ours))] == [same[i] for i in range(len(same))] and len(ours) == len(same)
        assert pickle.loads(pickle.dumps(ours))[4] == ours[4]
    train = make_source("tfds", "train", {"path": str(tree)})
    assert train.name(10) == "jpegs-train.tfrecord-00001-of-00002#0"


def test_framing_is_that_of_grains_reader(tree):
    grain = pytest.importorskip("grain")
    path = tree / "jpegs-train.tfrecord-00001-of-00002"
    offsets, lengths = tfrecord.scan(path)
    data = path.read_bytes()
    records = [data[o : o + n] for o, n in zip(offsets, lengths)]
    assert list(grain.experimental.TFRecordIterDataset(str(path))) == records


def test_a_damaged_record_is_a_bad_image_and_its_neighbours_are_whole(tree, monkeypatch):
    path = tree / "jpegs-train.tfrecord-00000-of-00002"
    offsets, lengths = tfrecord.scan(path)
    data = bytearray(path.read_bytes())
    data[offsets[4] + lengths[4] // 2] ^= 1
    whole = make_source("tfds", "train", {"path": str(tree)})
    kept = [whole[i] for i in (3, 5)]
    path.write_bytes(data)
    source = make_source("tfds", "train", {"path": str(tree)})
    with pytest.raises(BadImage, match="checksum of its record"):
        source[4]
    assert [source[i] for i in (3, 5)] == kept
    monkeypatch.setattr("mae_jax.data.sources.records.fast_crc32c", lambda: None)
    assert "checksums not verified" in source.describe()


@pytest.mark.parametrize(("change", "words"), [("length", "damaged at byte {1}"), ("cut", "cut off.*at byte {9}")])
def test_a_broken_chain_names_file_and_byte(tree, change, words):
    path = tree / "jpegs-train.tfrecord-00000-of-00002"
    heads = tfrecord.scan(path)[0] - tfrecord.HEAD
    data = bytearray(path.read_bytes())
    if change == "length":
        data[heads[1]] ^= 1
    path.write_bytes(data if change == "length" else data[:-5])
    with pytest.raises(UserError, match=path.name + " is " + words.format(*heads)):
        make_source("tfds", "train", {"path": str(tree)})


# The index ------------------------------------------------------------------------------------------------------------


def test_the_index_is_read_once_and_again_only_for_a_file_that_changed(tree, monkeypatch):
    scanned = []
    scan = tfrecord.scan
    monkeypatch.setattr("mae_jax.data.sources.record_index.scan", lambda p: scanned.append(p.name) or scan(p))
    first = make_source("tfds", "train", {"path": str(tree)})
    assert len(scanned) == 2 and cache_places("tfrecord", tree, "label")[0].is_file()
    assert make_source("tfds", "train", {"path": str(tree)})[12] == first[12] and len(scanned) == 2
    changed = tree / "jpegs-train.tfrecord-00001-of-00002"
    records = [write_example({"image": jpeg(i), "label": np.array([2])}) for i in range(13)]
    changed.write_bytes(b"".join(map(frame, records)))
    again = make_source("tfds", "train", {"path": str(tree)})
    assert scanned[2:] == [changed.name]
    assert list(again.labels[:10]) == list(first.labels[:10]) and set(again.labels[10:]) == {2}
    make_source("tfds", "val", {"path": str(tree)})  # another split adds its files and drops none
    make_source("tfds", "train", {"path": str(tree)})
    assert scanned[3:] == ["jpegs-validation.tfrecord-00000-of-00001"]


def test_a_broken_cache_is_made_again_and_an_unwritable_one_goes_home(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    beside, home = cache_places("tfrecord", tree, "label")
    beside.write_bytes(b"PK broken")
    first = make_source("tfds", "train", {"path": str(tree)})
    assert np.load(beside)["counts"].sum() == 23
    beside.unlink()
    beside.mkdir()  # nothing can be written under this name
    assert list(make_source("tfds", "train", {"path": str(tree)}).labels) == list(first.labels)
    assert np.load(home)["counts"].sum() == 23
    assert not [n for n in os.listdir(tree) if n.endswith(".tmp")]


def test_an_unreadable_example_is_unlabelled(tmp_path):
    records = [
        write_example({"label": np.array([1])}),
        b"\x99",
        write_example({"x": b""}),
        write_example({"label": np.array([0])}),
    ]
    (tmp_path / "a").write_bytes(b"".join(map(frame, records)))
    assert list(index_shards("tfrecord", tmp_path, ["a"], "label")[0].labels) == [1, -1, -1, 0]


# What a user can get wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "needs data.path"),
        ({"path": "{root}/jpegs", "name": "x"}, "needs data.path .* or else data.name"),
        ({"path": "{root}/jpeg"}, "no such directory. Did you mean 'jpegs'"),
        ({"path": "{root}"}, "several data sets .jpegs, raw."),
        ({"path": "{tmp}"}, "no dataset_info.json.*array_record"),
        ({"name": "jpeg", "data_dir": "{root}"}, "Did you mean 'jpegs'.*download_and_prepare"),
        ({"path": "{root}/jpegs", "image_key": "imag"}, "no feature 'imag'.*'image'"),
        ({"path": "{root}/jpegs", "image_key": "label"}, "image_key=label is a ClassLabel"),
        ({"path": "{root}/jpegs", "label_key": "lable"}, "no feature 'lable'.*'label'"),
        ({"path": "{root}/jpegs", "label_key": "mass"}, "label_key=mass is a Scalar|label_key=mass is a Tensor"),
        ({"path": "{root}/raw", "image_key": "k"}, "image_key=k is a .* int64"),
        ({"path": "{root}/raw", "image_key": "none6_4_2", "holdout": 0.0}, "leaves nothing"),
    ],
)
def test_mistakes_are_named(prepared, tmp_path, fields, words):
    fields = {k: v.format(root=prepared, tmp=tmp_path) if isinstance(v, str) else v for k, v in fields.items()}
    with pytest.raises(UserError, match=f"(?s){words}"):
        make_source("tfds", "test", fields)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda r: (r / "jpegs-train.array_record-00000-of-00001").unlink(), "lacks jpegs-train"),
        (lambda r: os.truncate(r / "jpegs-train.array_record-00000-of-00001", 70000), "no whole array_record file"),
        (lambda r: (r / "dataset_info.json").write_text("{"), "no JSON"),
        (lambda r: (r / "dataset_info.json").write_text(
            (r / "dataset_info.json").read_text().replace('"23"', '"24"')), "holds 23 records where .* says 24"),
        (lambda r: (r / "dataset_info.json").write_text('{"splits": [], "fileFormat": "array_record"}'), "not 'train'"),
        (lambda r: (r / "dataset_info.json").write_text(
            (r / "dataset_info.json").read_text().replace("array_record", "riegeli", 1)), "stored as 'riegeli'"),
    ],
)  # fmt: skip
def test_a_damaged_directory_is_named(prepared, tmp_path, damage, words):
    root = tmp_path / "1.0.0"
    shutil.copytree(prepared / "jpegs" / "1.0.0", root)
    damage(root)
    with pytest.raises(UserError, match=words):
        make_source("tfds", "train", {"path": str(root)})


def test_without_features_json_encoded_images_are_still_read(prepared, tmp_path):
    root = tmp_path / "1.0.0"
    shutil.copytree(prepared / "jpegs" / "1.0.0", root)
    (root / "features.json").write_text('{"type": "FeaturesDict", "content": {}}')  # as TFDS wrote before 4.5
    ours, same = (make_source("tfds", "train", {"path": str(p)}) for p in (root, prepared / "jpegs"))
    assert ours[7] == same[7] and ours.classes == NAMES
