"""Sources of videos: what each holds, how it splits, and what it says when it cannot."""

import pickle

import numpy as np
import pytest
from tiny_videos import numbered, numbers, write_frames, write_video

from mae_jax.core.errors import UserError
from mae_jax.data.limits import BadImage
from mae_jax.data.sources import make_source


@pytest.mark.parametrize("edge", ["bounce", "wrap"])
def test_moving_digits_are_whole_digits_with_constant_velocity(edge):
    source = make_source("moving_digits", "train", {"edge": edge, "frames": 6, "size": 20, "length": 40})
    assert len(source) == 40 and len(source.classes) == 10
    turned = 0
    for i in range(40):
        video = source[i]["video"]
        clip = video.frames(range(6))
        assert clip.shape == (6, 20, 20, 3) and clip.dtype == np.uint8 and video.size == (20, 20) and len(video) == 6
        digit = source.digits.images[i][..., 0]
        for frame, place in zip(clip, source.places(i), strict=True):
            shown = np.roll(frame, tuple(-place), (0, 1))
            np.testing.assert_array_equal(shown[:8, :8], np.repeat(digit[..., None], 3, axis=-1))
            assert not shown[8:].any() and not shown[:, 8:].any()
        steps = np.diff(source.places(i), axis=0)
        steps = (steps + 10) % 20 - 10  # round the edge
        assert np.abs(steps).max() <= 3  # 2 pixels per frame, and the rounding
        straight = np.ptp(steps, axis=0) <= 1  # rounding alone
        assert straight.all() or edge == "bounce"
        turned += not straight.all()
    assert turned > 0 or edge == "wrap"
    np.testing.assert_array_equal(source[7]["video"].frames([5, 1, 1]), source[7]["video"].frames(range(6))[[5, 1, 1]])


def test_no_digit_image_moves_in_both_splits():
    train, test = (make_source("moving_digits", split, {}) for split in ("train", "val"))
    assert len(train) == len(test) == 2000
    assert not set(train.digits.numbers) & set(test.digits.numbers)
    assert train.labels[1437 + 5] == train.digits.labels[5]
    other = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(other[3]["video"].frames([2]), train[3]["video"].frames([2]))
    assert not np.array_equal(train.places(3), test.places(3))


@pytest.mark.parametrize("fields", [{"size": 7}, {"frames": 0}, {"edge": "stop"}, {"speed": -1.0}])
def test_moving_digits_that_cannot_be(fields):
    with pytest.raises(UserError, match=rf"data.{next(iter(fields))}"):
        make_source("moving_digits", "train", fields)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes of files and of folders of frames; the file lies beside a picture of itself."""
    root = tmp_path_factory.mktemp("tree")
    for i in range(3):
        write_video(root / "run" / f"{i}.avi", numbered(10, seed=i), codec="mpeg4")
        write_frames(root / "sit" / "deep" / f"{i}", numbered(4 + i, seed=i))
    write_frames(root / "run", numbered(1), "thumbnail{}.jpg")
    (root / "sit" / "deep" / ".hidden").mkdir()
    (root / "notes.txt").write_text("nothing to see")
    return root


def named(source):
    return {source.name(i): int(source.labels[i]) for i in range(len(source))}


def test_trees_of_files_and_of_folders_of_frames(tree):
    source = make_source("video", "train", {"path": str(tree), "holdout": 0.0})
    assert named(source) == {f"run/{i}.avi": 0 for i in range(3)} | {f"sit/deep/{i}": 1 for i in range(3)}
    assert source.classes == ("run", "sit") and "6 videos (train), 2 classes" in source.describe()
    lengths = [len(source[i]["video"]) for i in range(6)]
    assert lengths == [10, 10, 10, 4, 5, 6]
    assert numbers(source[5]["video"].frames([3, 0])) == [3, 0]
    half = {
        split: named(make_source("video", split, {"path": str(tree), "holdout": 0.5})) for split in ("train", "test")
    }
    assert half["train"] | half["test"] == named(source) and not half["train"].keys() & half["test"].keys()
    other = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(other[0]["video"].frames([2]), source[0]["video"].frames([2]))


def test_manifests_and_lists(tree, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("path,label,split\nrun/0.avi,run,train\nsit/deep/1,sit,val\nsit/deep/2,sit,train\n")
    fields = {"path": str(tree), "manifest": str(table)}
    assert named(make_source("video", "train", fields)) == {"run/0.avi": 0, "sit/deep/2": 1}
    assert named(make_source("video", "test", fields)) == {"sit/deep/1": 1}

    train, test = tmp_path / "train.csv", tmp_path / "val.txt"
    train.write_text(f"run/0.avi 2\n\n{tree}/sit/deep/2 5 0\nsit/deep/1 5 1\nrun/1.avi 0 1\n")
    test.write_text("run/2.avi 2\n")
    lists = {"path": str(tree), "manifest": str(train), "test_manifest": str(test)}
    source = make_source("video", "train", lists)
    assert source.labels.tolist() == [2, 0, 1, 1] and source.classes == ("0", "1", "2")
    assert [len(source[i]["video"]) for i in range(4)] == [10, 5, 5, 10]  # five of six frames; a file has its own count
    assert named(make_source("video", "test", lists)) == {"run/2.avi": 2}
    train.write_text("run/0.avi -1\nrun/1.avi -1\n")  # as pretraining lists have it
    half = [make_source("video", split, {**fields, "manifest": str(train)}) for split in ("train", "test")]
    assert [len(s) for s in half] == [1, 1] and half[0].classes == () and half[0].labels.tolist() == [-1]


def test_frames_that_a_list_promises_must_be_there(tree, tmp_path):
    (tmp_path / "list.csv").write_text("sit/deep/0 5 0\n")
    source = make_source("video", "train", {"path": str(tree), "manifest": str(tmp_path / "list.csv"), "holdout": 0.0})
    with pytest.raises(BadImage, match="4 frames are there, and 5 expected"):
        source[0]


@pytest.mark.parametrize(
    ("lines", "error"),
    [("run/0.avi\n", "Line 1 of .* 'path label'"), ("run/0.avi run\n", "Line 1"), ("run/0.avi -2\n", "Line 1"),
     ("run/0.avi 0\nrun/9.avi 0\n", "Line 2 of .* there is no video .*9.avi"), ("\n", "holds no line")],
)  # fmt: skip
def test_lists_that_cannot_be_read(tree, tmp_path, lines, error):
    (tmp_path / "list.csv").write_text(lines)
    with pytest.raises(UserError, match=error):
        make_source("video", "train", {"path": str(tree), "manifest": str(tmp_path / "list.csv")})


def test_what_a_tree_cannot_be(tree, tmp_path):
    (tmp_path / "list.csv").write_text("run/0.avi 0\n")
    (tmp_path / "more.csv").write_text("run/1.avi 1\n")
    (tmp_path / "table.csv").write_text("path\nrun/0.avi\n")
    path = {"path": str(tree)}
    for fields, error in [
        ({"path": str(tmp_path)}, "There is no video below .*list.csv"),
        ({"path": str(tree / "notes.txt")}, "a list of videos is data.manifest"),
        ({"path": str(tree / "rum")}, "no such directory.*run"),
        ({**path, "test_manifest": "x"}, "data.manifest"),
        ({**path, "manifest": str(tmp_path / "none.csv")}, "no such file"),
        ({**path, "manifest": str(tmp_path / "table.csv"), "test_manifest": "x"}, "column 'split'"),
        ({**path, "manifest": str(tmp_path / "list.csv"), "test_manifest": str(tmp_path / "more.csv")}, "label 1"),
        ({**path, "manifest": str(tmp_path / "list.csv"), "holdout": 0.0}, "is empty: data.holdout=0.0 of 1 videos"),
    ]:
        with pytest.raises(UserError, match=error):
            make_source("video", "test", fields)
