"""Scores of classifiers: several classes per record, and the votes of several views."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, top_k_accuracy_score
from tiny_runs import tiny

import mae_jax
from mae_jax.augment.mixup import mixed_labels
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.data.sources.base import Arrays
from mae_jax.data.sources.mixture import united
from mae_jax.data.sources.subset import Subset, few_per_class
from mae_jax.train.build import build
from mae_jax.transfer.classify import Validation, several, single
from mae_jax.transfer.finetune import FineTune
from mae_jax.transfer.plan import check_labels
from mae_jax.transfer.start import as_weights
from mae_jax.transfer.task import classify_protocol
from mae_jax.weights.opened import opened
from mae_jax.weights.store import write


def probabilities(n=60, c=7):
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(c), n), rng.integers(0, c, n), (rng.random((n, c)) < 0.3).astype(int)


def test_scores_equal_scikit_learns():
    p, label, labels = probabilities()
    found = single(p, label)
    assert found["top1"] == pytest.approx(100 * accuracy_score(label, p.argmax(1)))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(label, p, k=5))
    assert found["loss"] == pytest.approx(log_loss(label, p))
    found = several(p, labels)
    assert found["map"] == pytest.approx(100 * average_precision_score(labels, p, average="macro"))
    each = np.where(labels == 1, np.log(p), np.log1p(-p))
    assert found["loss"] == pytest.approx(-each.mean())


def test_labels_of_several_classes_are_smoothed_and_mixed():
    a, b = jnp.array([[1, 0, 1], [0, 0, 1]]), jnp.array([[0, 0, 1], [1, 0, 1]])
    np.testing.assert_allclose(
        mixed_labels(a, 0.2, jnp.array([0.75, 1.0]), b), [[0.7, 0.1, 0.9], [0.1, 0.1, 0.9]], atol=1e-6
    )


def rows(n=12, classes=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    source = Arrays(rng.integers(0, 255, (n, 8, 8, 1), np.uint8), np.zeros(n), "made up", classes)
    source.labels = (rng.random((n, len(classes))) < 0.5).astype(np.int32)
    source.multilabel = True
    return source


def test_sources_with_several_classes_are_joined_and_cut():
    first, second = rows(4), rows(3, ("c", "d"), 1)
    second.labels[1] = -1
    labels, classes = united([first, second])
    assert classes == ("a", "b", "c", "d") and (labels[:4, :3] == first.labels).all() and not labels[:4, 3].any()
    assert (labels[[4, 6]][:, [2, 3]] == second.labels[[0, 2]]).all() and (labels[5] == -1).all()
    part = Subset([first], [np.array([0, 2])], ["train"], "some")
    assert part.multilabel and (part.labels == first.labels[[0, 2]]).all() and "several per record" in part.describe()
    with pytest.raises(UserError, match="several per record"):
        united([first, Arrays(np.zeros((2, 8, 8, 1)), np.zeros(2), "one each", ("a",))])
    with pytest.raises(UserError, match="needs a label per record"):
        few_per_class(first, 1)
    check_labels(first, "training")


@pytest.fixture(scope="module")
def run():
    config = tiny()
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, batch=8))
    plain = build(config)
    return build(config, method=FineTune(inner=plain.method, classes=3, multilabel=True, head_std=0.5))


def test_a_record_of_several_classes(run):
    """The loss is the mean binary cross entropy, and the score mean average precision over all records."""
    source, state = rows(), run.init()
    rest = {"stats": state["stats"], "ema": {}, "frozen": {}}
    found = Validation(run, source, source).scores(state["params"], rest)
    images = jnp.asarray(source.images, jnp.float32)
    batch = run.augment({"image": jnp.asarray(source.images), "label": jnp.asarray(source.labels)})
    assert images.shape == batch["image"].shape
    loss, aux = run.method.loss(state["params"], rest, batch, Context(jax.random.key(0), train=False))
    p = np.asarray(jax.nn.sigmoid(aux.seen["logits"]))
    assert found == pytest.approx(several(p, source.labels), rel=1e-4) and found["loss"] == pytest.approx(
        float(loss), rel=1e-4
    )


def test_views_of_a_record_vote(run, monkeypatch):
    """The probabilities' mean: two views that differ by a constant image give neither's score."""
    source, state = rows(), run.init()
    rest = {"stats": state["stats"], "ema": {}, "frozen": {}}
    seen = []

    def views(self, train, view=0):
        seen.append(view)
        shifted = lambda record: {**record, "image": np.roll(record["image"].pixels(1), 3 * view, axis=0)}
        leaves = plain.leaves
        return dataclasses.replace(
            plain, leaves={n: (lambda name, r, d, f=f: f(name, shifted(r), d)) for n, f in leaves.items()}
        )

    plain = run.views(False)
    monkeypatch.setattr(type(run), "vote_views", 2)
    monkeypatch.setattr(type(run), "views", views)
    found = Validation(run, source, source).scores(state["params"], rest)
    each = []
    for shift in (0, 3):
        batch = run.augment({"image": jnp.asarray(np.roll(source.images, shift, axis=1))})
        each.append(np.asarray(jax.nn.sigmoid(run.method.logits(state["params"], rest, batch)[0])))
    assert seen == [0, 1] and found == pytest.approx(several(np.mean(each, axis=0), source.labels), rel=1e-4)
    assert found["map"] != pytest.approx(several(each[0], source.labels)["map"])


def test_a_written_classifier_knows_that_its_classes_do_not_exclude_each_other(run, tmp_path):
    """`mae_jax.load(...).classify` gives a sigmoid per class, and the protocol `classify` refuses other labels."""
    state, source = run.init(), rows()
    made = as_weights(run, state["params"], state["stats"], {"source": "here", "step": 0}, source.classes)
    path = write(tmp_path / "model.safetensors", made)
    found = mae_jax.load(path).classify(source.images)
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-found.logits)), atol=1e-6)
    one_each = Arrays(source.images, np.zeros(len(source)), "one each", source.classes)
    with pytest.raises(UserError, match="several classes per record, and the test split has one"):
        classify_protocol(opened(path), one_each, one_each)
    assert classify_protocol(opened(path), source, source).details.keys() == {"loss"}
