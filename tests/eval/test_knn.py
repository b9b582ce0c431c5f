import numpy as np
import pytest
from digits import pixels
from sklearn.neighbors import KNeighborsClassifier

from mae_jax.core.errors import UserError
from mae_jax.core.mesh import make_mesh
from mae_jax.eval import knn, neighbours
from mae_jax.eval.features import Labelled


@pytest.mark.parametrize("k", [1, 7, 20])
def test_agrees_with_scikit_learn(k, monkeypatch):
    """sklearn's neighbours with the paper's weights: cosine distance d = 1 - s, weight exp((1 - d) / T)."""
    train, test = pixels()
    monkeypatch.setattr(knn, "CHUNK_BYTES", 4 * len(train.labels) * 50)  # several chunks, the last one shorter
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    peer.fit(train.features.astype(np.float64), train.labels)
    expected = 100 * peer.score(test.features.astype(np.float64), test.labels)
    assert knn.accuracies(train, test, [k])[k] == pytest.approx(expected)


def test_weights_decide_against_the_majority():
    """Worked by hand: one neighbour at cosine 1 weighs e^(1/T); two at cosine 0.9 weigh 2 e^(0.9/T)."""
    cosine = np.array([1.0, 0.9, 0.9])
    train = Labelled(np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1).astype(np.float32), np.array([3, 8, 8]))
    test = Labelled(np.array([[5.0, 0.0]], np.float32), np.array([3]))
    # exp(0.1 / T) > 2 where T < 0.1 / log 2 = 0.144
    assert knn.accuracies(train, test, [3], temperature=0.14) == {3: 100.0}
    assert knn.accuracies(train, test, [3], temperature=0.15) == {3: 0.0}


def test_nearest_ids_equal_a_stable_sort_also_with_ties():
    similarity = np.random.default_rng(0).integers(0, 4, (50, 31)).astype(np.float32)
    for k in (1, 5, 31):
        expected = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(knn.nearest_ids(similarity, k), expected)


def test_many_ks_equal_one_at_a_time():
    train, test = pixels()
    together = knn.accuracies(train, test, [5, 1, 20])
    assert together == {k: knn.accuracies(train, test, [k])[k] for k in (5, 1, 20)}


def test_scale_of_a_sample_is_irrelevant_and_zeros_are_harmless():
    train, test = pixels()
    scaled = Labelled(train.features * np.linspace(0.1, 10, len(train.labels), dtype=np.float32)[:, None], train.labels)
    assert knn.accuracies(scaled, test) == pytest.approx(knn.accuracies(train, test), abs=0.3)
    zeros = Labelled(np.zeros_like(test.features), test.labels)
    assert np.isfinite(knn.accuracies(train, zeros)[10])


@pytest.mark.parametrize("ks", [[0], [4], [1, 4], []])
def test_impossible_k(ks):
    few = Labelled(np.eye(3, dtype=np.float32), np.arange(3))
    with pytest.raises(UserError, match="3 training samples"):
        knn.accuracies(few, few, ks)


def test_unseen_class_counts_as_wrong():
    train = Labelled(np.eye(2, dtype=np.float32), np.array([0, 1]))
    test = Labelled(np.eye(2, dtype=np.float32), np.array([0, 9]))
    assert knn.accuracies(train, test, [1]) == {1: 50.0}


def whole_numbers(n, seed, high=3, d=6):
    """Features whose products are exact in float32, with many ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, high, (n, d)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 37])
def test_devices_find_the_same_neighbours_also_with_ties(k):
    bank, queries = whole_numbers(101, 0), whole_numbers(29, 1)
    mesh = make_mesh(data=4, fsdp=2)
    values, ids = neighbours.nearest(bank, queries, k, mesh, chunk=24, at_once=16)
    product = queries @ bank.T
    expected = np.argsort(-product, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(product, expected, axis=1))


def test_accuracies_on_devices_are_numpys():
    train, test = pixels()
    ks = (1, 10, 100)
    assert knn.accuracies(train, test, ks, mesh=make_mesh()) == knn.accuracies(train, test, ks)
