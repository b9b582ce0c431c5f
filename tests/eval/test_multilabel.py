"""Probes of samples that may be of several classes: scikit-learn's one-vs-rest, scored by mean average precision."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from tiny_runs import tiny

from mae_jax.core.devices import Share
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import make_mesh
from mae_jax.data.sources.base import Arrays
from mae_jax.eval import cache, linear, logistic
from mae_jax.eval.features import Labelled, extract
from mae_jax.eval.probes import Result, check_several, probe
from mae_jax.eval.report import results_json, table
from mae_jax.train.build import build
from mae_jax.train.probing import Probes


@pytest.fixture(scope="module")
def splits():
    """(train, test): 5 classes that depend on 12 features; class 3 is rare, nobody is of class 4."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 12)).astype(np.float32)
    logits = x @ rng.normal(size=(12, 5)) + np.array([0, 0, 1, -4, 0]) + rng.normal(size=(500, 5))
    y = (logits > 0).astype(np.int64)
    y[:, 4] = 0
    return Labelled(x[:350], y[:350]), Labelled(x[350:], y[350:])


@pytest.mark.parametrize("strength", [0.05, 2.0])
def test_each_class_is_scikit_learns_own_regression(splits, strength):
    train, _ = splits
    problem = logistic.place(train.features, train.labels)
    found = logistic.solve(problem, strength, classes=5, tolerance=1e-6)
    for c in range(4):  # one-vs-rest: the sum over classes falls apart
        peer = LogisticRegression(C=strength, tol=1e-8, max_iter=2000).fit(train.features, train.labels[:, c])
        ours = np.asarray(found.w)[:, c]
        np.testing.assert_allclose(ours[:-1], peer.coef_[0], atol=2e-3)
        assert ours[-1] == pytest.approx(peer.intercept_[0], abs=2e-3)
    spread = logistic.solve(logistic.place(train.features, train.labels, mesh=make_mesh()), strength, classes=5)
    np.testing.assert_allclose(spread.w[:, :4], found.w[:, :4], atol=5e-3)


def test_the_probe_is_scored_by_scikit_learns_average_precision(splits):
    train, test = splits
    found = linear.accuracy(train, test, strengths=[1.0])
    mean, std = linear.moments(train.features)
    x, queries = (linear.standardise(s.features, mean, std) for s in splits)
    each = []
    for c in range(4):
        peer = LogisticRegression(C=1.0, tol=1e-6, max_iter=2000).fit(x, train.labels[:, c])
        each.append(average_precision_score(test.labels[:, c], peer.decision_function(queries)))
    assert found.accuracy == pytest.approx(100 * np.mean(each), abs=0.3) and found.converged
    assert found.accuracy > 70
    chosen = linear.accuracy(train, test)
    assert chosen.strength in linear.STRENGTHS and chosen.accuracy > found.accuracy - 2


def test_the_row_says_map_and_other_protocols_refuse(splits):
    found = probe(*splits, ["linear"])
    assert list(found) == ["linear_map"]
    text = table({"pretrained": found})
    assert "linear probe, mAP" in text and f"{found['linear_map'].accuracy:.1f}" in text
    assert list(results_json({"pretrained": {"linear_map": Result(51.239)}})) == ["linear_map"]
    with pytest.raises(UserError, match="'knn' expects one of each: set eval.protocols"):
        probe(*splits, ["linear", "knn"])
    check_several(["knn"], False)


def test_features_are_extracted_and_cached_with_their_rows_of_labels(tmp_path):
    """Unlabelled and padded samples are left out; as many samples as classes changes nothing."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    label = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [-1, -1, -1, -1], [1, 1, 1, 1]], np.int32)
    batches = [{"x": x, "label": label, "valid": np.array([True, True, True, False])}]
    encoders = {"own": lambda batch: batch["x"]}
    wanted = extract(encoders, batches, multilabel=True)["own"]
    np.testing.assert_array_equal(wanted.features, x[:2])
    np.testing.assert_array_equal(wanted.labels, label[:2])
    entry = {"own": cache.Entry.of(tmp_path, {"of": "x"})}
    for _ in range(2):
        found = cache.features(
            entry, encoders, cache.Pass(lambda start: iter(batches[start:]), 1, 4, Share(0, 1)), multilabel=True
        )["own"]  # fmt: skip
        np.testing.assert_array_equal(found.features, wanted.features)
        np.testing.assert_array_equal(found.labels, wanted.labels)
    with pytest.raises(UserError, match="a feature vector per sample"):
        extract({"own": lambda batch: batch["x"][:, None]}, batches, multilabel=True)


def test_a_run_probes_records_of_several_classes():
    """From the source to the row, through the feed: labels ride along as [b, classes]."""
    images = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 1), np.uint8)
    source = Arrays(images, np.zeros(24), "made up", ("a", "b"))
    source.labels = np.stack([np.arange(24) % 2, np.arange(24) % 3 == 0], axis=1).astype(np.int32)
    source.multilabel = True
    run = build(tiny("eval.protocols=('linear',)", "eval.raw=False", "eval.random=False", "eval.batch=16"))
    Probes.check(run, source, source)
    state = run.init(("step", "params", "stats", "ema"))
    found = Probes(run, source, source).final(state)
    assert list(found.results["pretrained"]) == ["linear_map"]
    assert 30 < found.results["pretrained"]["linear_map"].accuracy <= 100
    with pytest.raises(UserError, match="'knn' expects one of each"):
        Probes.check(build(tiny("eval.protocols=('knn',)")), source, source)
