"""What each source holds, how it splits, and what it says when it cannot."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data.pipeline import fingerprint
from mae_jax.data.sources import SOURCES, make_source


def touch(root, *names, value=0):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, np.full((4, 4, 3), value, np.uint8))
        else:
            Image.new("RGB", (4, 4), (value, 0, 0)).save(path, {".jpg": "jpeg"}.get(path.suffix.lower()))


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_digits_are_sklearns_split_by_class():
    from sklearn.datasets import load_digits

    data = load_digits()
    train, test = make_source("digits", "train", {}), make_source("digits", "val", {})
    assert (len(train), len(test)) == (1437, 360)
    assert sorted([*train.numbers, *test.numbers]) == list(range(1797))
    for i in (0, 100, 1436):
        n = train.numbers[i]
        assert train[i]["label"] == data.target[n]
        np.testing.assert_array_equal(train[i]["image"][..., 0], np.round(data.images[n] * 255 / 16).astype(np.uint8))
    share = np.bincount(test.labels) / np.bincount(data.target)
    assert abs(share - 360 / 1797).max() < 1 / 174  # each class to within one image
    assert train.classes == tuple("0123456789")


def test_photos_never_show_a_test_pixel_in_training():
    train, test = (
        make_source("photos", "train", {"crops": 10}),
        make_source("photos", "test", {"crops": 10}),
    )
    assert train[0]["image"].shape == (427, 288, 3) and train.pictures[0].shape[1] + test.pictures[0].shape[1] == 640
    views = [test[i]["image"] for i in range(10)]
    assert all(v.shape[0] == v.shape[1] and 80 <= v.shape[0] <= 144 for v in views)
    assert len({v.tobytes() for v in views}) == 10
    np.testing.assert_array_equal(test[3]["image"], make_source("photos", "test", {"crops": 99})[3]["image"])
    assert [train[i]["label"] for i in range(4)] == [0, 1, 0, 1] and train.classes == ("china", "flower")


def test_synthetic_is_smooth_repeatable_and_different_per_item_and_split():
    fields = {"size": (24, 30), "channels": 5, "length": 40, "classes": 4}
    train, test = (make_source("synthetic", "train", fields), make_source("synthetic", "test", fields))
    image = train[7]["image"].astype(float)
    assert image.shape == (24, 30, 5) and train[7]["label"] == 3
    np.testing.assert_array_equal(image, make_source("synthetic", "train", fields)[7]["image"])
    assert not np.array_equal(image, test[7]["image"]) and not np.array_equal(image, train[11]["image"])
    assert np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1] > 0.8


def test_synthetic_classes_can_be_learnt():
    """Nearest class mean of power spectra (blind to phase), fitted on train, scored on test."""
    fields = {"size": 16, "channels": 2, "length": 200, "classes": 5}

    def spectra(split):
        source = make_source("synthetic", split, fields)
        images = np.stack([source[i]["image"] for i in range(200)]).astype(float)
        return abs(np.fft.fft2(images - images.mean((1, 2), keepdims=True), axes=(1, 2))).reshape(
            200, -1
        ), source.labels

    (x, y), (xt, yt) = spectra("train"), spectra("test")
    means = np.stack([x[y == c].mean(0) for c in range(5)])
    guess = ((xt[:, None] - means[None]) ** 2).sum(-1).argmin(1)
    assert (guess == yt).mean() > 0.95


def test_folder_with_class_directories(tmp_path):
    touch(tmp_path, *[f"{c}/deep/{i}.jpg" for c in ("dog", "cat", "ant") for i in range(20)])
    touch(tmp_path, ".hidden/1.png", "cat/.also.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    train, test = (make_source("folder", s, {"path": str(tmp_path), "holdout": 0.3}) for s in ("train", "test"))
    assert len(train) + len(test) == 60 and 5 < len(test) < 32
    assert not set(names(train)) & set(names(test))
    assert train.classes == ("ant", "cat", "dog") == test.classes
    for source in (train, test):
        assert all(source.classes[source[i]["label"]] == source.name(i).split("/")[0] for i in range(len(source)))
    assert train.where(0) == str(tmp_path / train.name(0)) and os.path.exists(train.where(0))


def test_folder_holdout_depends_on_each_name_alone(tmp_path):
    touch(tmp_path / "a", *[f"{i}.png" for i in range(30)])
    touch(tmp_path / "b", *[f"{i}.png" for i in range(30)], "00.png", "15a.png")
    split = [set(names(make_source("folder", "test", {"path": str(tmp_path / d)}))) for d in "ab"]
    assert split[0] == split[1] - {"00.png", "15a.png"}


def test_folder_with_split_directories(tmp_path):
    touch(
        tmp_path,
        "train/a/1.PNG",
        "train/b/2.gif",
        "val/b/3.bmp",
        "val/a/4.webp",
        "val/a/5.tif",
        "extra/6.png",
    )
    train, test = (make_source("folder", s, {"path": str(tmp_path)}) for s in ("train", "test"))
    assert names(train) == ["a/1.PNG", "b/2.gif"] and names(test) == ["a/4.webp", "a/5.tif", "b/3.bmp"]
    assert list(test.labels) == [0, 0, 1]


@pytest.mark.parametrize("folders", [("Train", "Val"), ("training", "validation"), ("TRAIN", "test", "val")])
def test_splits_under_other_names_are_no_classes(tmp_path, folders):
    touch(tmp_path, *(f"{folder}/{c}/0.png" for folder in folders for c in "ab"))
    with pytest.raises(UserError, match=f"{min(folders)}.*look like splits.*rename them to train"):
        make_source("folder", "train", {"path": str(tmp_path)})


def test_folder_without_classes_is_unlabelled(tmp_path):
    touch(tmp_path / "mixed", "a/1.png", "b/2.png", "3.png", "4.npy")
    touch(tmp_path / "one", "images/1.png", "images/2.png", "images/3.png")
    for d in ("mixed", "one"):
        train, test = (make_source("folder", s, {"path": str(tmp_path / d)}) for s in ("train", "test"))
        assert train.classes == () and set(train.labels) == {-1} == set(test.labels)
        assert len(test) >= 1  # even of three files one is held out


def test_folder_follows_links_and_survives_a_loop(tmp_path):
    touch(tmp_path / "real", "1.png", "2.png")
    touch(tmp_path / "data", "3.png")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "data" / "zwei").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "data")
    source = make_source("folder", "train", {"path": str(tmp_path / "data"), "holdout": 0})
    assert names(source) == ["3.png", "link/1.png", "link/2.png", "zwei/1.png", "zwei/2.png"]


def test_npz_layouts(tmp_path):
    x = np.arange(50 * 4 * 5 * 3, dtype=np.uint16).reshape(50, 4, 5, 3)
    y = np.arange(50) % 7
    np.savez(tmp_path / "whole.npz", images=x, labels=y)
    np.savez_compressed(tmp_path / "small.npz", x=x, y=y[:, None])
    np.savez(tmp_path / "keras.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    np.savez(tmp_path / "med.npz", train_images=x[:30], train_labels=y[:30], val_images=x[30:40], val_labels=y[30:40],
             test_images=x[40:], test_labels=y[40:])  # fmt: skip
    np.save(tmp_path / "plain.npy", x)
    for file in ("whole.npz", "small.npz", "keras.npz", "med.npz", "plain.npy"):
        train, test = (make_source("npz", s, {"path": str(tmp_path / file)}) for s in ("train", "test"))
        for source in (train, pickle.loads(pickle.dumps(test))):
            for i in range(len(source)):
                n = int(source[i]["image"][0, 0, 0]) // 60
                np.testing.assert_array_equal(source[i]["image"], x[n])
                assert source[i]["label"] == (-1 if file == "plain.npy" else y[n])
        if file in ("keras.npz", "med.npz"):
            assert len(test) == 10 and int(test[0]["image"][0, 0, 0]) == 40 * 60
        else:
            assert len(train) + len(test) == 50 and 1 <= len(test) < 15
        assert train.classes == (() if file == "plain.npy" else tuple("0123456"))


def test_npz_maps_what_is_stored_and_its_pickle_holds_no_pixels(tmp_path):
    x = np.random.default_rng(0).random((40, 16, 16)).astype(np.float64)
    np.savez(tmp_path / "f.npz", images=x, other=np.zeros(3))
    np.save(tmp_path / "f.npy", x)
    for file in ("f.npz", "f.npy"):
        source = make_source("npz", "train", {"path": str(tmp_path / file), "holdout": 0.0})
        assert isinstance(source.images, np.memmap)
        np.testing.assert_array_equal(source[5]["image"][..., 0], x[5].astype(np.float32))
        assert len(pickle.dumps(source)) < 3000


def test_fingerprint_sees_files_and_labels_but_not_the_place(tmp_path):
    for d in ("here", "there"):
        touch(tmp_path / d, *[f"{c}/{i}.png" for c in "ab" for i in range(20)])
    one, two = (fingerprint(make_source("folder", "train", {"path": str(tmp_path / d)})) for d in ("here", "there"))
    assert one == two
    touch(tmp_path / "there", *[f"a/new{i}.png" for i in range(4)])
    assert one != fingerprint(make_source("folder", "train", {"path": str(tmp_path / "there")}))


@pytest.mark.parametrize(
    ("name", "split", "fields", "words"),
    [
        ("digit", "train", {}, "no data source 'digit'.*'digits'"),
        ("digits", "dev", {}, "no split 'dev'"),
        ("folder", "train", {}, "needs data.path"),
        ("folder", "train", {"pth": "/"}, "no field 'pth'.*'path'"),
        ("folder", "train", {"path": "/", "holdout": "much"}, "data.holdout.*float expected, str"),
        ("folder", "train", {"path": "{tmp}/imagse"}, "no such directory.*'images'"),
        ("folder", "train", {"path": "{tmp}/file.npz"}, "is a file.*npz"),
        ("folder", "train", {"path": "{tmp}/images"}, "no image below.*jpg, jpeg.*holds notes.txt"),
        ("folder", "test", {"path": "{tmp}/images"}, "no image below"),
        ("folder", "test", {"path": "{tmp}/one"}, "test split.*is empty.*holdout=0.1"),
        ("folder", "train", {"path": "{tmp}/one", "holdout": 1.0}, "holdout is 1.0"),
        ("npz", "train", {"path": "{tmp}/flie.npz"}, "no such file.*'file.npz'"),
        ("npz", "train", {"path": "{tmp}/images"}, "not a .npz or .npy"),
        ("npz", "train", {"path": "{tmp}/file.npz"}, "holds the arrays pictures"),
        ("npz", "train", {"path": "{tmp}/flat.npz"}, r"shape \(4, 10\).*int64"),
        ("npz", "train", {"path": "{tmp}/uneven.npz"}, "4 images in 'x' and 3 labels in 'y'"),
        ("npz", "train", {"path": "{tmp}/broken.npz"}, "not a whole .npz"),
        ("synthetic", "train", {"size": 0}, "at least 1"),
        ("photos", "train", {"crops": 0}, "at least 1"),
    ],
)
def test_mistakes_are_named(tmp_path, name, split, fields, words):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("")
    touch(tmp_path, "one/1.png")
    np.savez(tmp_path / "file.npz", pictures=np.zeros((4, 4)))
    np.savez(tmp_path / "flat.npz", x=np.zeros((4, 10), np.int64))
    np.savez(tmp_path / "uneven.npz", x=np.zeros((4, 2, 2), np.uint8), y=np.zeros(3, int))
    (tmp_path / "broken.npz").write_bytes(b"PK not a zip")
    fields = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in fields.items()}
    with pytest.raises(UserError, match=f"(?s){words}"):
        make_source(name, split, fields)


def test_every_source_tells_its_keys():
    for spec in SOURCES.values():
        assert spec.__doc__ and spec.__dataclass_params__.frozen
