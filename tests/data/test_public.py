"""CIFAR, STL-10 and Imagenette, from files of their published layouts."""

import pickle

import numpy as np
import pytest
from public_files import (
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar100_python,
    imagenette,
    python2_pickle,
    stl10,
)

from mae_jax.core.errors import UserError
from mae_jax.data.sources import make_source


def check(source, images, labels):
    assert len(source) == len(images)
    for i in (0, len(images) // 2, len(images) - 1):
        np.testing.assert_array_equal(source[i]["image"], images[i])
        assert source[i]["label"] == labels[i]


def test_cifar10_binary(tmp_path):
    images, labels = cifar10_binary(tmp_path)
    for path in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        train, test = (make_source("cifar10", s, {"path": str(path)}) for s in ("train", "val"))
        check(train, images[:20], labels[:20])
        check(test, images[20:], labels[20:])
        assert train.classes[0] == "airplane" and train.classes == test.classes and len(train.classes) == 10
    check(pickle.loads(pickle.dumps(train)), images[:20], labels[:20])
    train[0]
    assert len(pickle.dumps(train)) < 2000  # goes to workers without pixels
    assert train.describe().startswith("cifar10 train: 20 images 32x32x3")


def test_cifar100_binary_has_two_kinds_of_labels(tmp_path):
    images, fine, coarse = cifar100_binary(tmp_path)
    for kind, labels, count in (("fine", fine, 100), ("coarse", coarse, 20)):
        fields = {"path": str(tmp_path), "labels": kind}
        check(make_source("cifar100", "train", fields), images[:10], labels[:10])
        test = make_source("cifar100", "test", fields)
        check(test, images[10:], labels[10:])
        assert len(test.classes) == count and test.classes[3] == f"{kind} 3"


def test_python_versions_say_the_same(tmp_path):
    for name, fields, binary, python in (
        ("cifar10", {}, cifar10_binary, cifar10_python),
        ("cifar100", {"labels": "coarse"}, cifar100_binary, cifar100_python),
    ):
        binary(tmp_path / name / "b")
        python(tmp_path / name / "p")
        for split in ("train", "test"):
            one, other = (make_source(name, split, {"path": str(tmp_path / name / v), **fields}) for v in "bp")
            assert one.labels.tolist() == other.labels.tolist() and one.classes[0] == other.classes[0]
            assert [one.name(i) for i in range(len(one))] == [other.name(i) for i in range(len(other))]
            for i in range(len(one)):
                np.testing.assert_array_equal(one.image(i), other.image(i))


def test_a_pickle_runs_nothing(tmp_path):
    cifar10_python(tmp_path)
    marker = tmp_path / "ran"

    class Bad:
        def __reduce__(self):
            return open, (str(marker), "w")

    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({"data": Bad()}, protocol=2))
    with pytest.raises(UserError, match="io.open"):
        make_source("cifar10", "test", {"path": str(tmp_path)})
    assert not marker.exists()


def test_stl10(tmp_path):
    data = stl10(tmp_path)
    for split, asked in (("train", "train"), ("test", "val"), ("test", "test")):
        source = make_source("stl10", asked, {"path": str(tmp_path)})
        check(source, *data[split])
        assert source.classes[1] == "bird"
    images, _ = data["unlabeled"]
    unlabeled = make_source("stl10", "unlabeled", {"path": str(tmp_path / "stl10_binary")})
    check(unlabeled, images, np.full(20, -1))
    both = make_source("stl10", "train+unlabeled", {"path": str(tmp_path)})
    check(both, np.concatenate([data["train"][0], images]), np.full(30, -1))
    assert not unlabeled.classes and not both.classes


def test_imagenette_has_names_for_its_classes(tmp_path):
    imagenette(tmp_path)
    for path in (tmp_path, tmp_path / "imagenette2-160"):
        train, test = (make_source("imagenette", s, {"path": str(path)}) for s in ("train", "val"))
        assert (len(train), len(test)) == (20, 10)
        assert train.classes == test.classes and train.classes[train.labels[-1]] == "parachute"


@pytest.mark.parametrize(
    ("source", "split", "fields", "words"),
    [
        ("cifar10", "train", {"path": "{tmp}/nothing"}, "no such directory.*cs.toronto.edu"),
        ("cifar10", "train", {"path": "{tmp}/file"}, "is a file. Unpack it"),
        ("cifar10", "train", {"path": "{tmp}/empty"}, "holds neither test_batch.bin nor test_batch .*holds notes"),
        ("cifar10", "train", {"path": "{tmp}/cut"}, "30,729 bytes.*3,073 each.*cut off"),
        ("cifar10", "train", {"path": "{tmp}/lost"}, "data_batch_3.bin is not there"),
        ("cifar10", "test", {"path": "{tmp}/label"}, "labels 17 to 17: 10 classes"),
        ("cifar10", "test", {"path": "{tmp}/short"}, "cannot be read .*binary version needs no pickle"),
        ("cifar10", "test", {"path": "{tmp}/other"}, "no 'data' of uint8"),
        ("cifar100", "test", {"path": "{tmp}/empty", "labels": "fin"}, "'fine' labels"),
        ("stl10", "train", {"path": "{tmp}/empty"}, "holds neither train_X.bin.*acoates"),
        ("stl10", "dev", {"path": "{tmp}/stl"}, "no split 'dev'.*unlabeled"),
        ("stl10", "test", {"path": "{tmp}/stl"}, "test_X.bin is not there"),
        ("stl10", "train", {"path": "{tmp}/stl"}, "2 images and train_y.bin 3 labels"),
        ("imagenette", "train", {"path": "{tmp}/cats"}, "not Imagenette.*n01440764.*cat, dog found.*source=folder"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, source, split, fields, words):
    for name in ("cut", "lost", "label"):
        cifar10_binary(tmp_path / name, n=1)
    folder = "cifar-10-batches-bin"
    (tmp_path / "cut" / folder / "data_batch_2.bin").write_bytes(bytes(30_729))
    (tmp_path / "lost" / folder / "data_batch_3.bin").unlink()
    (tmp_path / "label" / folder / "test_batch.bin").write_bytes(b"\x11" + bytes(3072))
    for name, content in (
        ("short", python2_pickle({"data": [bytes(3072)]})[:500]),
        ("other", python2_pickle({"a": 1})),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_batch").write_bytes(content)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    (tmp_path / "stl").mkdir()
    (tmp_path / "stl" / "train_X.bin").write_bytes(bytes(2 * 27_648))
    (tmp_path / "stl" / "train_y.bin").write_bytes(b"\x01\x02\x03")
    for c in ("cat", "dog"):
        (tmp_path / "cats" / "train" / c).mkdir(parents=True)
        (tmp_path / "cats" / "train" / c / "1.png").write_bytes(b"")
    fields = {k: v.format(tmp=tmp_path) for k, v in fields.items()}
    with pytest.raises(UserError, match=f"(?s){words}"):
        make_source(source, split, fields)
