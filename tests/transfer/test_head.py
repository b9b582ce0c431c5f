"""The trained probes: their step against NumPy, their batches, and what each head can and cannot see."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import tiny

from mae_jax.core.errors import UserError
from mae_jax.train.build import build
from mae_jax.train.optimizers import adamw, lars
from mae_jax.train.schedules import warmup_cosine
from mae_jax.train.state import rest_of
from mae_jax.transfer.attentive import AttentiveHead, _heads, attentive
from mae_jax.transfer.head import FrozenEncoder, make_step, sized
from mae_jax.transfer.linear import LinearHead, linear_paper

HELD = dict(probe_augment=False, probe_batch=64, probe_epochs=8.0, probe_warmup=1.0, probe_learning_rate=30.0)


@pytest.fixture(scope="module")
def fresh():
    """A fresh tiny encoder, laid out on its run."""
    run = build(tiny("eval.limit=None", "eval.batch=360", "augment.noise=0.5", "augment.erase=1.0"))
    return run, run.init(("params", "stats", "ema", "step"))


def opened(fresh, *, batch=360, **transfer):
    """As `weights.opened` would give it, with other options."""
    run, state = fresh
    config = dataclasses.replace(
        run.config, transfer=dataclasses.replace(run.config.transfer, **transfer),
        eval=dataclasses.replace(run.config.eval, batch=batch),
    )  # fmt: skip
    run = dataclasses.replace(run, config=config)
    return types.SimpleNamespace(run=run, config=config, state=state, rest=rest_of(state, run.frozen))


def splits(o):
    return o.run.open("train"), o.run.open("test")


# The step -------------------------------------------------------------------------------------------------------------


def numpy_probe(x, y, w, b, rates, momentum=0.9, trust=0.001):
    """Batch norm without affine, linear, cross entropy, LARS (facebookresearch/mae) in float64, by hand."""
    mean, var = np.zeros(x.shape[2]), np.ones(x.shape[2])
    mw, mb = np.zeros_like(w), np.zeros_like(b)
    for xs, ys, rate in zip(x, y, rates, strict=True):
        n = len(xs)
        m, v = xs.mean(axis=0), xs.var(axis=0)
        mean, var = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * n / (n - 1)
        z = (xs - m) / np.sqrt(v + 1e-6)
        logits = z @ w + b
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        error = (p - np.eye(w.shape[1])[ys]) / n
        gw, gb = z.T @ error, error.sum(axis=0)
        gw = gw * trust * np.linalg.norm(w) / np.linalg.norm(gw)
        mw, mb = momentum * mw + gw, momentum * mb + gb
        w, b = w - rate * mw, b - rate * mb
    return w, b, mean, var


def test_five_steps_of_the_papers_probe_are_numpys():
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.normal(size=(5, 32, 6))
    y = rng.integers(0, 4, (5, 32))
    head, rate = LinearHead(4), warmup_cosine(20.0, 2, 5)
    found = jax.jit(lambda key: head.init(key, jnp.zeros((2, 6)), train=True))(jax.random.key(0))
    params, optimizer = found["params"], lars(0.9, 0.001, 0.0)
    w, b = (np.float64(params["head"][k]) for k in ("kernel", "bias"))
    expected = numpy_probe(x, y, w, b, [float(rate(i)) for i in range(5)])
    step = make_step(head, optimizer, rate)
    state = {"params": params, "stats": found["stats"], "opt": optimizer.init(params)}
    for i in range(5):  # in two parts: what the encoder made in two calls is one batch of the head
        parts = tuple(jnp.asarray(half, jnp.float32) for half in np.split(x[i], 2))
        labels = tuple(jnp.asarray(half) for half in np.split(y[i], 2))
        state, _ = step(state, parts, labels, jnp.int32(i))
    got = (
        *(state["params"]["head"][k] for k in ("kernel", "bias")),
        *(state["stats"]["norm"][k] for k in ("mean", "var")),
    )
    for a, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-4, atol=1e-6)
    assert np.abs(got[0] - w).max() > 1e-3  # it moved


def test_head_starts_small_and_without_affine():
    found = jax.jit(lambda key: LinearHead(50).init(key, jnp.zeros((2, 64)), train=True))(jax.random.key(0))
    kernel = np.asarray(found["params"]["head"]["kernel"])
    assert set(found["params"]) == {"head"} and not found["params"]["head"]["bias"].any()
    assert 0.008 < kernel.std() < 0.0105 and np.abs(kernel).max() < 0.025


# Which samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "n", "part", "expected"), [(16384, 1281167, 256, 16384), (16384, 1437, 8, 1432), (300, 5000, 256, 256)]
)
def test_a_batch_is_at_most_the_training_set(batch, n, part, expected):
    assert sized(batch, n, part) == expected


def test_held_features_come_once_per_epoch_in_another_order(fresh):
    o = opened(fresh, **HELD)
    train, _ = splits(o)
    found = np.concatenate([np.asarray(y[0]) for _, y in FrozenEncoder(o, mean).held(train, 480, 6)])
    first, second = found[:1437], found[1437:2874]
    for epoch in (first, second):
        np.testing.assert_array_equal(np.bincount(epoch), np.bincount(train.labels))
    assert (first != second).any()


def test_augmented_batches_come_in_parts_with_crops_of_their_own(fresh):
    o = opened(fresh, batch=64)
    encoder = FrozenEncoder(o, mean)
    assert encoder.augment.noise == encoder.augment.erase == 0  # of the pretraining, only colours and flip are kept
    steps, again = (list(encoder.anew(splits(o)[0], 128, 2)) for _ in range(2))
    assert [[x.shape for x in xs] for xs, _ in steps] == [[(64, 16), (64, 16)]] * 2
    np.testing.assert_array_equal(steps[1][0][1], again[1][0][1])
    assert not np.allclose(steps[0][0][0], steps[1][0][0])


def mean(features):
    return features.normed.mean(axis=1)


# The whole protocols --------------------------------------------------------------------------------------------------


def test_linear_paper_beats_chance_by_far_from_held_features(fresh):
    o = opened(fresh, **HELD)
    found = linear_paper(o, *splits(o))
    assert found.accuracy > 25 and found.details["top5"] > 70  # an encoder that has seen nothing
    assert found.details["batch"] == 64 and found.details["steps"] == round(8 * 1437 / 64)
    assert found.details["peak_rate"] == pytest.approx(30 * 64 / 256)


def test_attentive_finds_the_token_that_matters_where_the_mean_does_not():
    """One of 12 tokens is marked and carries the class as a sign; the others carry random signs."""
    rng = np.random.default_rng(0)

    def draw(n):
        y = rng.integers(0, 2, n)
        x = 0.1 * rng.normal(size=(n, 12, 8))
        x[:, :, 1] += rng.choice([-1.0, 1.0], (n, 12))
        x[:, :, 0] -= 1
        at = rng.integers(0, 12, n)
        x[np.arange(n), at, 0] = 1
        x[np.arange(n), at, 1] = 2.0 * y - 1
        return jnp.asarray(x, jnp.float32), jnp.asarray(y)

    def score(head, pick, rate):
        x, y = draw(512)
        found = jax.jit(lambda key: head.init(key, pick(x[:2]), train=True))(jax.random.key(1))
        optimizer = adamw(0.9, 0.999, 1e-8, 0.0, dict.fromkeys(flat(found["params"]), 0.0))
        state = {"params": found["params"], "stats": found["stats"], "opt": optimizer.init(found["params"])}
        step = make_step(head, optimizer, warmup_cosine(rate, 10, 150))
        for i in range(150):
            state, _ = step(state, (pick(x),), (y,), jnp.int32(i))
        x, y = draw(512)
        logits = head.apply({"params": state["params"], "stats": state["stats"]}, pick(x), train=False)
        return float((logits.argmax(axis=1) == y).mean())

    assert score(AttentiveHead(2, 2), lambda x: x, 2e-2) > 0.97
    assert score(LinearHead(2), lambda x: x.mean(axis=1), 2e-2) < 0.75


def flat(params):
    from mae_jax.core import tree

    return tree.flatten(params)


def test_attentive_runs_on_an_encoder_with_a_class_token(fresh):
    o = opened(
        fresh, **HELD, probe_attentive_epochs=2.0, probe_attentive_warmup=0.5, probe_attentive_batch=128,
        probe_attentive_learning_rate=0.02,
    )  # fmt: skip
    assert attentive(o, *splits(o)).accuracy > 20


@pytest.mark.parametrize(("asked", "dim", "expected"), [(0, 768, 12), (0, 48, 1), (0, 1280, 20), (3, 48, 3)])
def test_heads(asked, dim, expected):
    assert _heads(asked, dim) == expected


def test_what_cannot_be_is_said(fresh):
    with pytest.raises(UserError, match="probe_attentive_heads=5 does not divide"):
        _heads(5, 48)
    o = opened(fresh, **HELD | {"probe_memory_gb": 1e-6})
    with pytest.raises(UserError, match="probe_memory_gb"):
        linear_paper(o, *splits(o))
