"""The prototypical probe of a frozen encoder, and what trained probes score where a record has several labels."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from mae_jax.config import resolve
from mae_jax.core.errors import UserError
from mae_jax.eval.features import pool
from mae_jax.nets.prototypes import PrototypeHead
from mae_jax.train.build import build
from mae_jax.train.optimizers import adamw
from mae_jax.train.state import rest_of
from mae_jax.transfer import head as heads
from mae_jax.transfer.head import FrozenEncoder, entropy, train_and_score
from mae_jax.transfer.linear import LinearHead
from mae_jax.transfer.prototypes import LogitsOf, groups, loss, prototypical

METHOD = dict(
    name="birdmae", spectrogram_size=(16, 16), patch=4, dim=16, depth=1, heads=2, decoder_dim=8, decoder_depth=1,
    decoder_heads=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def opened():
    """A fresh encoder on clips that hold one or two chirps."""
    config = resolve({
        "method": METHOD, "data": dict(source="chirps", length=48, distractor=0.5, multilabel=True),
        "augment": dict(spectrogram_rate=8000, spectrogram_seconds=0.66), "train": {"batch": 8, "steps": 1},
        "eval": {"batch": 16},
        "transfer": dict(probe_augment=False, probe_prototypes=2, probe_prototype_epochs=4.0, probe_prototype_batch=16),
    })  # fmt: skip
    run = build(config)
    state = run.init(("params", "stats", "ema", "step"))
    return types.SimpleNamespace(run=run, config=config, state=state, rest=rest_of(state, run.frozen))


def test_several_labels_are_scored_by_average_precision(opened, monkeypatch):
    train, test = opened.run.open("train"), opened.run.open("test")
    kept = {}
    whole = heads._all_logits

    def watched(*args):
        kept["logits"], kept["labels"] = whole(*args)
        return kept["logits"], kept["labels"]

    monkeypatch.setattr(heads, "_all_logits", watched)
    found = prototypical(opened, train, test)
    np.testing.assert_array_equal(kept["labels"], test.labels)
    assert kept["logits"].shape == (48, 5)
    expected = average_precision_score(test.labels, kept["logits"], average="macro")
    np.testing.assert_allclose(found.accuracy, 100 * expected, rtol=1e-6)
    assert found.details["steps"] == 12 and found.details["peak_rate"] == 0.04 and "AP/trill" in found.details


def test_the_probe_learns_what_it_is_shown(opened):
    """From 12 steps to more on its own training clips: the loss falls."""
    train = opened.run.open("train")
    encoder = FrozenEncoder(opened, lambda features: pool(features, "mean"))

    def after(epochs):
        optimizer = lambda params: adamw(0.9, 0.95, 1e-8, 0.0, {"head/kernel": 0.0, "head/bias": 0.0})
        recipe = heads.Recipe(epochs, 0.5, 16, 0.02, optimizer, scaled=False)
        return train_and_score(encoder, LinearHead(5), recipe, train, train)

    assert after(20).accuracy > after(1).accuracy + 5


def test_rates_and_decays_of_the_parts(opened):
    o = opened.run.config.transfer
    params = {"prototypes": jnp.ones((2, 2)), "last": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    optimizer = groups(params, o)
    gradient = jax.tree.map(lambda p: 1e-3 * jnp.ones_like(p), params)
    direction, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(direction["prototypes"], 1 + 3e-4, rtol=1e-4)  # Adam's first step, and decay
    np.testing.assert_allclose(direction["last"]["kernel"], (1 + 1e-4) * 4e-4 / 0.04, rtol=1e-4)


def test_one_class_counts_as_one_label_of_several():
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    one, several = jnp.array([0, 2, 1, 1]), jnp.eye(3, dtype=jnp.int32)[jnp.array([0, 2, 1, 1])]
    np.testing.assert_allclose(loss(logits, one), loss(logits, several))
    assert not np.allclose(entropy(logits, one), entropy(logits, several))
    head = LogitsOf(PrototypeHead(3, 2))
    x = jnp.ones((2, 2, 2, 4))
    assert head.apply(head.init(jax.random.key(0), x), x).shape == (2, 3)


def test_a_probe_without_prototypes_is_refused(opened):
    transfer = dataclasses.replace(opened.run.config.transfer, probe_prototypes=0)
    run = dataclasses.replace(opened.run, config=dataclasses.replace(opened.run.config, transfer=transfer))
    with pytest.raises(UserError, match="probe_prototypes=0"):
        prototypical(types.SimpleNamespace(run=run), run.open("train"), run.open("test"))
