"""Split expressions: TFDS's arithmetic, and what a random slice promises."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.sources import make_source, open_split
from mae_jax.data.sources.base import Arrays, Source, Spec
from mae_jax.data.sources.subset import parse

LENGTHS = {"train": 1437, "test": 360}  # of digits


class Stored(Arrays):
    shuffled = True


@dataclass(frozen=True)
class Numbers(Spec):
    """Image i of a split is i; sorted by class; stored in random order where it says so."""

    length: int
    stored: bool = False

    def open(self, split: str) -> Source:
        images = np.arange(self.length, dtype=np.uint16).reshape(-1, 1, 1, 1)
        kind = Stored if self.stored else Arrays
        return kind(images, np.arange(self.length) * 10 // self.length, split, tuple("0123456789"))


def numbers(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


@pytest.mark.parametrize("length", [1, 7, 15, 333, 1000])
@pytest.mark.parametrize(
    "expression",
    ["train[:90%]", "train[90%:]", "train[-34%:]", "train[:-50%]", "train[12%:77%]", "train[33.3%:]", "train[1:]",
     "train[:-1]", "train[-1:]", "train[0:1_0]", "train[3:7]", "train"],
)  # fmt: skip
def test_bounds_are_those_of_tfds(length, expression):
    tfds = pytest.importorskip("tensorflow_datasets")
    info = tfds.core.splits.SplitInfo(name="train", shard_lengths=[length], num_bytes=0)
    spec = Numbers(length, stored=True)
    try:
        [wanted] = tfds.core.ReadInstruction.from_spec(expression).to_absolute({"train": info})
    except ValueError:  # reaches beyond the records
        with pytest.raises(UserError, match="beyond"):
            open_split(spec, expression)
        return
    start, stop = wanted.from_ or 0, length if wanted.to is None else wanted.to  # None: all the way
    if start >= stop or ("-" in expression and "%" in expression and length == 1):
        return  # nothing, or the case in which a negative percentage rounds to the start
    assert numbers(open_split(spec, expression)) == list(range(start, stop))


@pytest.mark.parametrize(
    "pair", [("[:90%]", "[90%:]"), ("[:-10%]", "[-10%:]"), ("[:123]", "[123:]"), ("[:1%]", "[1%:]")]
)
@pytest.mark.parametrize("stored", [False, True])
def test_complements_are_disjoint_and_complete_and_sorted(pair, stored):
    spec = Numbers(777, stored)
    a, b = (numbers(open_split(spec, "train" + e)) for e in pair)
    assert sorted(a + b) == list(range(777)) and a == sorted(a) and b == sorted(b)
    assert (a == list(range(len(a)))) == stored


def test_a_slice_of_sorted_classes_has_all_classes():
    source = open_split(Numbers(1000), "train[:20%]")
    assert len(source) == 200
    count = np.bincount(source.labels, minlength=10)  # hypergeometric: 20 +- 3.8 of each class
    assert abs(count - 20).max() < 5 * 3.8 and (count > 0).all()
    assert numbers(source) == numbers(open_split(Numbers(1000), "train[:200]"))


def test_a_subset_is_a_source():
    whole, source = (make_source("digits", s, {}) for s in ("train", "train[:25%]"))
    assert len(source) == round(0.25 * 1437) and source.classes == whole.classes
    place = {whole.name(i): i for i in range(len(whole))}
    for i in range(len(source)):
        record, same = source[i], whole[place[source.name(i)]]
        np.testing.assert_array_equal(record["image"], same["image"])
        assert record["label"] == same["label"] == source.labels[i] and source.where(i) == source.name(i)
    assert "train[:25%]: 359 records, 10 classes" in source.describe()
    copy = pickle.loads(pickle.dumps(source))
    assert copy.name(7) == source.name(7) and source.parts == ((0, 359, 1.0),)


def test_sums():
    both = make_source("digits", "train + test", {})
    assert len(both) == 1797 and both.name(0) == "train:digits #0" and both.name(1796).startswith("test:")
    mixed = make_source("digits", "train[:50%]+test[:100]", {})
    assert len(mixed) == round(1437 / 2) + 100
    parts = make_source("digits", "train[50%:]+train[:50%]", {})
    whole = make_source("digits", "train", {})
    assert [parts.name(i) for i in range(1437)] == [whole.name(i) for i in range(1437)]
    plain = make_source("digits", "val", {})
    assert isinstance(plain, Arrays) and len(plain) == 360  # nothing is put in between


def test_terms():
    assert [t.split for t in parse("train[:50%] + test[:100]+extra")] == ["train", "test", "extra"]
    assert parse("train[10%:-5%]")[0].bounds(200) == (20, 190)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("train[", "cannot be read at 'train\\['"),
        ("train[:]", "cannot be read"),
        ("train[5%]", "cannot be read"),
        ("", "cannot be read"),
        ("train+", "cannot be read at ''"),
        ("train[:x]", "cannot be read"),
        ("train[:101%]", "bound 101%"),
        ("train[:1.5]", "bound 1.5"),
        ("train[:2000]", "beyond the 1437 records"),
        ("train[-2000:]", "beyond the 1437 records"),
        ("train[50%:50%]", "takes none of the 1437"),
        ("train[60%:40%]", "takes none"),
    ],
)
def test_mistakes_show_the_grammar(expression, words):
    with pytest.raises(UserError, match=f"(?s){words}.*'train\\[:90%\\]'"):
        make_source("digits", expression, {})


@pytest.mark.parametrize("expression", ["train[:60%]+train[40%:]", "train+train", "val+test"])
def test_no_record_comes_twice(expression):
    with pytest.raises(UserError, match="twice"):
        make_source("digits", expression, {})


def test_an_unknown_split_is_named():
    with pytest.raises(UserError, match="no split 'dev'"):
        make_source("digits", "dev[:10%]", {})
