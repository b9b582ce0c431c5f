"""Mixtures: the interleaving's closed form, and what the pipeline makes of it."""

import numpy as np
import pytest
from tiny_runs import tiny

from mae_jax.core.errors import UserError
from mae_jax.data.pipeline import fingerprint, train_batches
from mae_jax.data.sources import Arrays, make_source
from mae_jax.data.sources.mixture import Mixed, interleave
from mae_jax.data.transforms import HostAugment
from mae_jax.data.views import View, Views

PLAIN = Views({"image": View(HostAugment((4, 4), 1, crop_scale=None, flip=False))})


def numbered(n, classes=(), first=0):
    images = np.broadcast_to(np.arange(first, first + n, dtype=np.uint16)[:, None, None, None], (n, 4, 4, 1))
    labels = np.arange(n) % len(classes) if classes else np.full(n, -1)
    return Arrays(images, labels, f"numbered {first}", classes)


@pytest.mark.parametrize(
    ("weights", "counts"),
    [((3, 1), (3, 1)), ((0.5, 0.5), (1, 1)), ((1, 1, 4), (1, 1, 4)), ((0.2, 0.3, 0.5), (2, 3, 5)), ((7.0,), (1,)),
     ((1, 3.14159), (241, 759))],
)  # fmt: skip
def test_every_stretch_of_a_cycle_holds_the_weights_share(weights, counts):
    mixed = interleave(weights)
    assert tuple(mixed.counts) == counts
    cycle, places = sum(counts), [mixed.at(g) for g in range(3 * sum(counts))]
    for start in (0, 1, cycle // 2, cycle):
        parts = [part for part, _ in places[start : start + cycle]]
        assert tuple(np.bincount(parts, minlength=len(counts))) == counts
    for part in range(len(counts)):  # each part's own samples come in order, none left out
        assert [k for p, k in places if p == part] == list(range(3 * counts[part]))


def test_parts_are_spread_evenly():
    """After g samples a part has had its share of them, give or take one (smooth weighted round robin)."""
    weights = np.array([5, 2, 1, 9])
    had = np.zeros(4)
    for g in range(200):
        had[interleave(tuple(weights.tolist())).at(g)[0]] += 1
        assert (np.abs(had - (g + 1) * weights / 17) <= 1).all()


@pytest.mark.parametrize("weights", [(0, 1), (-1, 1), (1, float("nan")), (1, 5000), ("a", 1), (True, 1)])
def test_weights_that_cannot_be_are_refused(weights):
    with pytest.raises(UserError, match=r"data\.parts"):
        interleave(weights)


def test_each_part_has_epochs_of_its_own():
    source = Mixed([numbered(6), numbered(9, first=100)], (2, 1))
    with train_batches(source, PLAIN, batch=9, seed=0) as batches:
        pixels = np.concatenate([next(batches)["image"][:, 0, 0, 0] for _ in range(3)])
    small, large = pixels[pixels < 100], pixels[pixels >= 100]
    assert len(small) == 18 and sorted(large) == list(range(100, 109))
    for epoch in small.reshape(3, 6):
        assert sorted(epoch) == list(range(6))
    assert len({tuple(epoch) for epoch in small.reshape(3, 6)}) == 3
    assert fingerprint(source) != fingerprint(Mixed([numbered(6), numbered(9, first=100)], (1, 1)))


def test_a_mixture_of_one_is_the_source():
    a, b = numbered(7, ("x", "y")), Mixed([numbered(7, ("x", "y"))], (3,))
    batches = [next(train_batches(s, PLAIN, batch=14, seed=4)) for s in (a, b)]
    for key in batches[0]:
        np.testing.assert_array_equal(batches[0][key], batches[1][key])


def test_classes_are_united_by_name_and_lost_if_any_part_has_none():
    source = Mixed([numbered(4, ("dog", "cat")), numbered(4, ("10", "cat", "9"))], (1, 1))
    assert source.classes == ("9", "10", "cat", "dog")
    assert source.labels.tolist() == [3, 2, 3, 2, 1, 2, 0, 1]
    assert source[5]["label"] == 2 and source[5]["image"][0, 0, 0] == 1
    assert len({source.name(i) for i in range(8)}) == 8
    unlabelled = Mixed([numbered(4, ("dog", "cat")), numbered(2)], (1, 1))
    assert unlabelled.classes == () and (unlabelled.labels == -1).all()


def test_a_config_names_its_parts():
    parts = ({"source": "digits", "weight": 3}, {"source": "digits", "train_split": "train[:50%]"})
    config = tiny(data={"source": "mixture", "parts": parts})
    source = make_source("mixture", "train", config.data.options)
    digits = make_source("digits", "train", {})
    assert len(source) == len(digits) + round(len(digits) / 2) and source.classes == digits.classes
    assert "75.0%" in source.describe() and "25.0%" in source.describe()
    assert len(make_source("mixture", "test", config.data.options)) == 2 * len(make_source("digits", "test", {}))


@pytest.mark.parametrize(
    "parts", [(), "digits", ({"path": "/a"},), ({"source": "digit"},), ({"source": "digits", "x": 1},)]
)
def test_parts_that_cannot_be_are_refused(parts):
    with pytest.raises(UserError, match=r"data\.parts|digit"):
        make_source("mixture", "train", {"parts": parts})
