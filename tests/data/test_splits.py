"""Split expressions."""

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.sources import Arrays, make_source
from mae_jax.data.sources.splits import open_split


def opener(n=1000, m=100, shuffled=False):
    """Records sorted by class: 10 classes of n / 10."""

    def open_one(split):
        if split not in ("train", "test"):
            raise UserError(f"There is no split '{split}'")
        count = n if split == "train" else m
        labels = np.arange(count) * 10 // count
        source = Arrays(np.zeros((count, 2, 2, 1), np.uint8), labels, split, tuple("0123456789"))
        source.shuffled = shuffled
        return source

    return open_one


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_a_plain_split_is_the_source_itself():
    assert isinstance(open_split(opener(), "train"), Arrays)


@pytest.mark.parametrize(
    ("expression", "length"),
    [("train[:90%]", 900), ("train[90%:]", 100), ("train[-10%:]", 100), ("train[:1]", 1), ("train[-30:]", 30),
     ("train[100:250]", 150), ("train[10%:20%]", 100), (" train [ :5% ] + test ", 150), ("train[:99999]", 1000),
     ("train+test", 1100), ("train[:-10]", 990)],
)  # fmt: skip
def test_lengths(expression, length):
    assert len(open_split(opener(), expression)) == length


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("left", "right"), [("[:90%]", "[90%:]"), ("[:333]", "[333:]"), ("[:33%]", "[33%:]")])
def test_two_sides_share_nothing_and_miss_nothing(left, right, shuffled):
    whole = names(open_split(opener(shuffled=shuffled), "train"))
    sides = [names(open_split(opener(shuffled=shuffled), f"train{side}")) for side in (left, right)]
    assert sorted(sides[0] + sides[1]) == sorted(whole) and not set(sides[0]) & set(sides[1])


def test_a_slice_of_data_sorted_by_class_has_every_class():
    small = open_split(opener(), "train[:5%]")
    assert set(small.labels) == set(range(10)) and (np.diff([int(n.split("#")[1]) for n in names(small)]) > 0).all()


def test_a_slice_of_shuffled_data_is_in_the_stored_order():
    assert names(open_split(opener(shuffled=True), "train[3:6]")) == ["train #3", "train #4", "train #5"]


def test_records_labels_and_classes_are_those_of_the_source():
    whole, part = make_source("digits", "train", {}), make_source("digits", "train[:10%]", {})
    by_name = {whole.name(i): i for i in range(len(whole))}
    assert part.classes == whole.classes and "train[:10%]" in part.describe()
    for i in (0, 7, len(part) - 1):
        k = by_name[part.name(i)]
        np.testing.assert_array_equal(part[i]["image"], whole[k]["image"])
        assert part[i]["label"] == part.labels[i] == whole.labels[k] and part.where(i) == whole.where(k)


@pytest.mark.parametrize(
    ("expression", "word"),
    [("train[", "train\\[:90%\\]"), ("train[10]", "is no split"), ("train[:110%]", "100%"), ("train[5:5]", "no record"),
     ("tain", "no split 'tain'"), ("", "is no split"), ("train++test", "is no split")],
)  # fmt: skip
def test_what_is_no_split_is_answered(expression, word):
    with pytest.raises(UserError, match=word):
        open_split(opener(), expression)
