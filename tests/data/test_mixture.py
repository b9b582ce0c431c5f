"""Several sources as one, and the order in which their samples come."""

import ml_collections
import numpy as np
import pytest

from mae_jax.config import resolve
from mae_jax.core.errors import UserError
from mae_jax.data.order import interleave, permutation
from mae_jax.data.sources import make_source
from mae_jax.data.sources.base import Part


def images(path, classes, n=10):
    for c in classes:
        (path / c).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            (path / c / f"{i}.jpg").write_bytes(f"{path.name} {c} {i}".encode())
    return dict(source="folder", path=str(path), holdout=0.0)


def test_nginx_example():
    """Weights 5, 1, 1: nginx's own account of its smooth round robin gives { a, a, b, a, c, a, a }."""
    turns = interleave([5, 1, 1])
    assert [turns.at(g) for g in range(7)] == [(0, 0), (0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (0, 4)]
    assert turns.at(7 * 10**12 + 4) == (2, 10**12)


@pytest.mark.parametrize(
    ("weights", "counts"),
    [([3, 1], [3, 1]), ([0.75, 0.25], [3, 1]), ([1 / 3, 2 / 3], [1, 2]), ([0.7, 0.2, 0.1], [7, 2, 1]), ([2.0], [1]),
     ([999, 1], [999, 1]), ([6, 4, 2], [3, 2, 1]), ([1] * 1000, [1] * 1000)],
)  # fmt: skip
def test_weights_become_the_smallest_whole_numbers(weights, counts):
    assert list(interleave(weights).counts) == counts


def test_weights_that_no_period_expresses_come_near():
    shares = np.array([2**0.5, 1, 0.01])
    counts = interleave(shares.tolist()).counts
    assert counts.sum() <= 1000 and abs(counts / counts.sum() / (shares / shares.sum()) - 1).max() < 0.01


@pytest.mark.parametrize("weights", [[3, 1], [5, 1, 1], [7, 2, 1], [1, 1, 1], [2**0.5, 1], [13, 7, 29, 3]])
def test_every_window_has_the_shares_and_every_part_counts_without_gaps(weights):
    turns = interleave(weights)
    period, counts = turns.period, turns.counts
    part, k = turns.all_at(np.arange(3 * period))
    assert [turns.at(g) for g in range(period)] == list(zip(part[:period].tolist(), k[:period].tolist()))
    for s, count in enumerate(counts):
        np.testing.assert_array_equal(k[part == s], np.arange(3 * count))
        came = np.concatenate([[0], np.cumsum(part == s)])
        assert (came[period:] - came[:-period] == count).all()  # any Q in a row
        assert abs(came[: period + 1] - np.arange(period + 1) * count / period).max() < len(counts)  # evenly spread


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [1, float("nan")], [1, float("inf")], []])
def test_weights_must_be_positive(weights):
    with pytest.raises(UserError, match="positive"):
        interleave(weights)


def test_a_share_below_one_in_a_thousand_is_refused():
    with pytest.raises(UserError, match="1 in 1000"):
        interleave([1000, 1])


def test_permutation_is_the_published_one():
    words = np.random.Philox(key=[3, 5]).random_raw(6)
    assert list(permutation(3, 5, 6)) == sorted(range(6), key=lambda i: words[i])


def test_records_labels_and_parts(tmp_path):
    a, b = images(tmp_path / "a", ["cat", "dog"]), images(tmp_path / "b", ["ant", "dog", "cat"])
    source = make_source("mixture", "train", {"parts": (a | {"weight": 3}, b)})
    assert len(source) == 50 and source.parts == (Part(0, 20, 3.0), Part(20, 30, 1.0))
    assert source.classes == ("cat", "dog", "ant")
    for i in range(50):
        folder, name, _ = source[i]["image"].decode().split()
        assert source.classes[source[i]["label"]] == name and folder == "ab"[i >= 20]
        assert source.labels[i] == source[i]["label"]
    assert source.name(0) == "0:cat/0.jpg" and source.where(20) == str(tmp_path / "b" / "ant" / "0.jpg")
    lines = source.describe().splitlines()
    assert len(lines) == 3 and "75.0%" in lines[1] and "25.0%" in lines[2]
    with pytest.raises(IndexError):
        source[50]


def test_parts_have_splits_of_their_own_and_slices_keep_the_parts(tmp_path):
    a, b = images(tmp_path / "a", ["cat", "dog"], 20), images(tmp_path / "b", ["cat", "dog"], 50)
    own = {"train": "train[:75%]", "test": "train[75%:]"}
    fields = {"parts": (a | {"split": own, "weight": 2}, b | {"split": {"test": "train[:10]"}})}
    train, test = (make_source("mixture", s, fields) for s in ("train", "test"))
    assert [p.length for p in train.parts] == [30, 100] and [p.length for p in test.parts] == [10, 10]
    half = make_source("mixture", "train[:50%]", fields)
    other = make_source("mixture", "train[50%:]", fields)
    first, second = ({s.name(i) for i in range(len(s))} for s in (half, other))
    assert not first & second and first | second == {train.name(i) for i in range(130)}
    assert sum(p.length for p in half.parts) == 65 and [p.weight for p in half.parts] == [2, 1]
    both = make_source("mixture", "train+test", fields)
    assert both.parts == (Part(0, 40, 2.0), Part(40, 110, 1.0))
    assert {both.name(i).split(":")[1] for i in range(40)} == {"0"}
    assert {both.name(i).split(":")[1] for i in range(40, 150)} == {"1"}
    assert [both[i]["label"] for i in range(150)] == both.labels.tolist()
    with pytest.raises(UserError, match="no record of part"):
        make_source("mixture", "train[:1]", fields)


def test_one_unlabelled_part_leaves_all_unlabelled(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.jpg").write_bytes(b"c")
    parts = (images(tmp_path / "a", ["cat", "dog"]), dict(source="folder", path=str(tmp_path / "c"), holdout=0.0))
    source = make_source("mixture", "train", {"parts": parts})
    assert source.classes == () and set(source.labels) == {-1} and source[0]["label"] == -1


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "names what is mixed"),
        (("digits",), "names what is mixed"),
        ((dict(source="digit"),), r"parts\[0\].*no data source 'digit'"),
        ((dict(source="digits"), dict(source="folder", pth="x")), r"parts\[1\].*no field 'pth'"),
        ((dict(source="digits", weight=0), dict(source="digits")), "positive"),
        ((dict(source="digits", weight="3"),), r"parts\[0\]: weight is '3'"),
        ((dict(source="digits", split="train"),), r"parts\[0\]: split is 'train'"),
        ((dict(source="mixture", parts=()),), "is a mixture itself"),
        ((dict(source="digits"), dict(source="volumes", size=4, length=3)), "image in digits #.*volume in volumes"),
    ],
)
def test_mistakes_are_named(parts, words):
    with pytest.raises(UserError, match=f"(?s){words}"):
        make_source("mixture", "train", {"parts": parts})


def test_parts_pass_through_the_config():
    parts = (dict(source="digits", weight=3, split=dict(train="train[:90%]")), dict(source="synthetic", size=8))
    raw = ml_collections.ConfigDict(dict(method=dict(name="mae"), data=dict(source="mixture", parts=parts))).to_dict()
    config = resolve(raw)
    again = resolve(config.to_dict())
    typed = resolve({"method": {"name": "mae"}, "data": {"source": "mixture"}}, [f"data.parts={parts!r}"])
    for c in (config, again, typed):
        assert len(make_source("mixture", "train", c.data.options)) == round(0.9 * 1437) + 1024
