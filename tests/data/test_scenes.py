"""Images with classes of pixels: what sources give, what they refuse, and that both follow one geometry."""

import functools

import numpy as np
import pytest
from PIL import Image

from mae_jax.core.errors import UserError
from mae_jax.data.annotation import IGNORE, Annotation
from mae_jax.data.limits import BadImage
from mae_jax.data.order import draws
from mae_jax.data.pipeline import train_batches
from mae_jax.data.scene import SceneAugment, SceneImage, SceneLabels, brought, mixed, nearest_pixels, pair
from mae_jax.data.sources import make_source
from mae_jax.data.sources.shapes import SEGMENTS, scene
from mae_jax.data.views import Views

COLOURS = np.random.default_rng(0).permutation(256)[:6].astype(np.uint8)  # of classes 0..5, in one channel


def painted(h, w, cell=5):
    """A record whose image shows its classes: every pixel has its class's colour."""
    rng = np.random.default_rng(h * w)
    labels = np.repeat(np.repeat(rng.integers(0, 6, (h // cell + 1, w // cell + 1)), cell, 0), cell, 1)[:h, :w]
    return {"image": COLOURS[labels][..., None].repeat(3, 2), "segmentation": labels.astype(np.uint8), "label": -1}


def both(law, record, position):
    draw = functools.partial(draws, 7, position)
    views = Views({"image": SceneImage(law, 3, (1, 2, 3)), "segmentation": SceneLabels(law)})
    out = views(record, draw)
    return out["image"], out["segmentation"]


@pytest.mark.parametrize("size", [(16, 24), (64, 40)])  # the second is larger than the image
def test_classes_follow_crop_and_flip_to_the_pixel(size):
    record, seen = painted(40, 50), set()
    for position in range(20):
        image, labels = both(SceneAugment(size, scale=(1, 1), max_ratio=0.9), record, position)
        assert image.shape == (*size, 3) and labels.shape == size
        inside = labels != IGNORE
        np.testing.assert_array_equal(image[inside], COLOURS[labels[inside]][:, None].repeat(3, 1))
        assert (image[~inside] == (1, 2, 3)).all()
        assert inside.sum() == min(size[0], 40) * min(size[1], 50)
        seen.add(labels.tobytes())
    assert len(seen) > 1  # the geometry is random


def test_classes_follow_a_change_of_scale_to_within_the_blur():
    """Away from borders, where antialiasing mixes colours, every pixel still has its class's colour."""
    record, checked = painted(60, 80, cell=20), 0
    for position in range(12):
        image, labels = both(SceneAugment((48, 48), short=50, max_ratio=1), record, position)
        inner = np.zeros(labels.shape, bool)
        same = np.stack([np.roll(labels, (i, j), (0, 1)) == labels for i in range(-3, 4) for j in range(-3, 4)])
        inner[3:-3, 3:-3] = same.all(0)[3:-3, 3:-3]
        inner &= labels != IGNORE
        wrong = np.abs(image[..., 0][inner].astype(int) - COLOURS[labels[inner]])
        assert wrong.max(initial=0) <= 1
        checked += inner.sum()
    assert checked > 3000


@pytest.mark.parametrize("axis", [0, 1])
def test_edges_of_classes_and_of_the_image_lie_on_the_same_pixel(axis):
    """Where a resized black and white image crosses the middle, the nearest class changes: not half a pixel beside."""
    labels = np.zeros((60, 80), np.uint8)
    for start, stop in ((10, 23), (37, 52)):
        labels[(slice(None),) * axis + (slice(start, stop),)] = 1
    record = {"image": (255 * labels)[..., None].repeat(3, 2), "segmentation": labels, "label": -1}
    wrong = seen = 0
    for position in range(12):
        image, found = both(SceneAugment((48, 48), short=50, max_ratio=1), record, position)
        sure = (found != IGNORE) & (np.abs(image[..., 0].astype(int) - 127.5) > 3)  # a pixel whose centre is the edge
        wrong += ((image[..., 0] > 127) != found)[sure].sum()
        seen += sure.sum()
    assert seen > 10_000 and wrong <= seen / 1000


def test_a_crop_of_one_class_is_drawn_again():
    labels = np.zeros((40, 40), np.uint8)
    labels[:8, :8] = 1  # 1 of 25 positions has it
    law = SceneAugment((8, 8), scale=(1, 1), max_ratio=0.75)
    count = lambda law: sum(
        mixed(nearest_pixels(labels, g.scaled, g.box), 0.75)
        for g in (law.draw(labels, draws(0, i, 0)) for i in range(300))
    )
    once, often = count(SceneAugment((8, 8), scale=(1, 1), max_ratio=1)), count(law)
    # of p mixed crops among single draws, 1 - (1 - p)^11 among the first of eleven
    expected = 300 * (1 - (1 - once / 300) ** 11)
    assert once > 5 and abs(often - expected) < 40


def test_max_ratio_counts_labelled_pixels_only():
    labels = np.array([[0, 0, 0, 1], [IGNORE] * 4], np.uint8)
    assert not mixed(labels, 0.75) and mixed(labels, 0.76)
    assert not mixed(np.full((2, 2), IGNORE, np.uint8), 0.75)


def test_batches_are_the_same_from_threads_and_by_number():
    source = make_source("shapes", "train", {"size": 16, "length": 12})
    law = SceneAugment((8, 8))
    views = Views({"image": SceneImage(law), "segmentation": SceneLabels(law)})
    with train_batches(source, views, batch=4, seed=0) as batches:
        first = [next(batches) for _ in range(3)]
    with train_batches(source, views, batch=4, seed=0, start=2) as batches:
        again = next(batches)
    assert first[0]["segmentation"].dtype == np.uint8 and first[0]["image"].shape == (4, 8, 8, 3)
    for name in ("image", "segmentation"):
        np.testing.assert_array_equal(first[2][name], again[name])


# Sources ------------------------------------------------------------------------------------------------------------


def write(root, stem, values, mode="L", size=(6, 8), image=True):
    """A pair of files, `values` in the annotation."""
    for folder, suffix in (("images", ".jpg"), ("annotations", ".png")):
        (root / folder / stem).parent.mkdir(parents=True, exist_ok=True)
        if folder == "images" and image:
            Image.new("RGB", (size[1], size[0]), (9, 9, 9)).save(root / folder / (stem + suffix))
        elif folder == "annotations":
            array = np.resize(np.array(values, np.uint8), size)
            picture = Image.fromarray(array)
            if mode == "P":
                picture.putpalette([i * 7 % 256 for i in range(768)])
                picture.info["transparency"] = 0
            picture.save(root / folder / (stem + suffix))


@pytest.fixture
def ade(tmp_path):
    """ADE20K's layout."""
    for split, stems in (("training", "ab"), ("validation", "c")):
        for stem in stems:
            write(tmp_path, f"{split}/{stem}", [0, 1, 2, 3])
    return tmp_path


def test_ade20k_zero_means_nothing_and_classes_begin_at_one(ade):
    fields = {"path": str(ade), "classes": 3, "reduce_zero_label": True}
    train, test = make_source("segmentation", "train", fields), make_source("segmentation", "val", fields)
    assert (len(train), len(test), train.segments, train.classes) == (2, 1, ("0", "1", "2"), ())
    image, labels = pair(train[0], 3)
    assert image.shape == (6, 8, 3) and labels[0, :4].tolist() == [IGNORE, 0, 1, 2]


def test_slices_of_a_split_know_its_classes(ade):
    part = make_source("segmentation", "train[:50%]", {"path": str(ade), "classes": ["x", "y", "z", "w"]})
    assert len(part) == 1 and part.segments == ("x", "y", "z", "w")


def test_voc_reads_numbers_of_a_palette_and_lists(tmp_path):
    for stem in ("2007_1", "2007_2", "2007_3"):
        write(tmp_path, stem, [0, 5, 20, 255], mode="P")
    lists = tmp_path / "sets"
    lists.mkdir()
    (lists / "train.txt").write_text("2007_3\n2007_1\n")
    (lists / "val.txt").write_text("2007_2\n")
    fields = {"path": str(tmp_path), "classes": 21, "lists": "sets/{split}.txt"}
    source = make_source("segmentation", "train", fields)
    assert [source.name(i) for i in range(2)] == ["2007_3.jpg", "2007_1.jpg"]
    assert source[0]["segmentation"].labels[0, :4].tolist() == [0, 5, 20, IGNORE]


def test_class_names_from_ade20ks_table(ade):
    (ade / "objectInfo.txt").write_text("Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tbuilding, edifice\n3\t0.1\tsky\n")
    source = make_source("segmentation", "train", {"path": str(ade), "classes": "objectInfo.txt"})
    assert source.segments == ("wall", "building, edifice", "sky")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda root: (root / "annotations/training/b.png").unlink(), r"no annotation in .*training for 'b\.jpg'"),
        (lambda root: (root / "images/training/a.jpg").unlink(), r"no image in .*training for 'a\.png'"),
        (lambda root: write(root, "training/b", [0, 7]), r"training/b\.png holds the value 7 .*0\.\.3 are classes"),
        (lambda root: Image.new("RGB", (8, 6)).save(root / "annotations/training/a.png"), r"a\.png holds colours"),
    ],
)
def test_what_does_not_fit_is_named(ade, break_it, says):
    break_it(ade)
    with pytest.raises(UserError, match=says):
        source = make_source("segmentation", "train", {"path": str(ade), "classes": 4})
        for i in range(len(source)):
            _ = source[i]["segmentation"].labels


def test_wrong_folders_lists_and_classes_are_named(ade):
    for fields, says in (
        ({"images": "image"}, "no directory .*Did you mean 'images'"),
        ({"lists": "sets.txt"}, "data.lists='sets.txt'"),
        ({"classes": "names.txt"}, "there is no such file"),
        ({"classes": 1}, "2 to 255 expected"),
    ):
        with pytest.raises(UserError, match=says):
            make_source("segmentation", "train", {"path": str(ade), "classes": 4} | fields)


def test_an_annotation_of_another_size_is_a_bad_record(ade):
    write(ade, "training/b", [0, 1], size=(6, 9), image=False)
    source = make_source("segmentation", "train", {"path": str(ade), "classes": 4})
    with pytest.raises(BadImage, match="6 x 8 pixels, its annotation 6 x 9"):
        pair(source[1], 3)


def test_reduce_zero_keeps_what_is_ignored():
    stored = np.array([[0, 1, 150, 255]], np.uint8)
    assert Annotation(stored, "x", 150, reduce_zero=True).labels.tolist() == [[IGNORE, 0, 149, IGNORE]]
    with pytest.raises(UserError, match="x holds the value 150"):
        _ = Annotation(stored, "x", 150).labels


def test_made_up_scenes_are_repeatable_and_hold_every_class():
    train, test = (make_source("shapes", split, {"length": 40}) for split in ("train", "test"))
    np.testing.assert_array_equal(train[3]["image"], scene(False, 3, 64)[0])
    assert (train[3]["image"] != test[3]["image"]).any()
    counts = sum(np.bincount(train[i]["segmentation"].labels.ravel(), minlength=6) for i in range(40))
    assert (counts > 2000).all() and len(SEGMENTS) == 6


def test_a_long_image_is_brought_to_no_more_than_four_times_the_short_side():
    assert brought(np.zeros((100, 200, 3), np.uint8), 50).shape[:2] == (50, 100)
    assert brought(np.zeros((100, 1000, 3), np.uint8), 50).shape[:2] == (20, 200)
