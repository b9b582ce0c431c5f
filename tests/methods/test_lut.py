"""LUT's own invariants (papers/lut)."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.lut import LUT
from mae_jax.methods.mae import MAE
from mae_jax.tokens.grid import patchify, unpatchify
from mae_jax.train.schedules import scaled

SHAPE = dict(
    image_size=16, patch=4, dim=24, depth=1, heads=3, decoder_dim=16, decoder_depth=1, decoder_heads=2, norm_pix=True
)
TINY = LUT(**SHAPE, head_hidden=20)
ONE, TWO = jax.random.normal(jax.random.key(7), (2, 4, 16, 16, 3))
BATCH = {"image": ONE, "image_2": TWO}


@pytest.fixture(scope="module")
def state():
    """(params, rest) with a teacher that is not the student, and statistics that are not the first ones."""
    params, stats = jax.jit(TINY.init)(jax.random.key(0), BATCH)
    stats = jax.tree.map(lambda s: s + 0.1, stats)
    other, _ = jax.jit(TINY.init)(jax.random.key(1), BATCH)
    return params, {"stats": stats, "ema": TINY.start_ema(other, jax.tree.map(lambda s: s + 0.02, stats)), "frozen": {}}


def loss(params, rest, batch=BATCH, method=TINY, train=True):
    return method.loss(params, rest, batch, Context(jax.random.key(3), train=train))


run = jax.jit(loss)


@pytest.fixture(scope="module")
def aux(state):
    return run(*state, BATCH)[1]


def test_the_views_show_disjoint_patches(aux):
    one, two = aux.seen["hidden"], aux.seen["hidden_2"]
    assert (one | two).all()
    assert (~one).sum(axis=1).tolist() == (~two).sum(axis=1).tolist() == [4] * 4


def test_hidden_patches_of_the_second_view_reach_the_teacher_alone(state, aux):
    hidden = aux.seen["hidden_2"][:, :, None]
    changed = unpatchify(jnp.where(hidden, 9.0, patchify(TWO, (4, 4))), (4, 4), (4, 4))
    other = run(*state, BATCH | {"image_2": changed})[1]
    for name in ("latent", "latent_2", "q", "q_2", "z"):
        np.testing.assert_array_equal(other.seen[name], aux.seen[name], err_msg=name)
    assert not np.allclose(other.seen["z_2"], aux.seen["z_2"])


def test_without_the_second_loss_it_is_mae_on_view_1(state):
    params, rest = state
    alone = dataclasses.replace(TINY, bc_weight=0.0)
    mae = MAE(**SHAPE)
    (value, _), gradient = jax.jit(jax.value_and_grad(lambda p: loss(p, rest, method=alone), has_aux=True))(params)
    theirs = {k: params[k] for k in ("encoder", "decoder")}
    (expected, _), wanted = jax.jit(
        jax.value_and_grad(lambda p: loss(p, rest, {"image": ONE}, mae), has_aux=True)
    )(theirs)  # fmt: skip
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for path, g in tree.flatten(wanted).items():
        np.testing.assert_allclose(tree.flatten(gradient)[path], g, rtol=1e-4, atol=1e-6, err_msg=path)


def test_the_loss_by_hand(aux):
    """bc = 1/2 (d(q_2, z_1) + d(q_1, z_2)), only across views, from the seen tensors in float64."""

    def distance(a, b):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        return (2 - 2 * (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean()

    s = aux.seen
    expected = (distance(s["q_2"], s["z"]) + distance(s["q"], s["z_2"])) / 2
    np.testing.assert_allclose(aux.metrics["bc"], expected, rtol=1e-5)
    assert 0 < expected < 4


def test_no_gradient_reaches_the_teacher(state):
    params, rest = state
    gradient = jax.jit(jax.grad(lambda ema: loss(params, rest | {"ema": ema})[0]))(rest["ema"])
    assert all((g == 0).all() for g in jax.tree.leaves(gradient))


def test_running_statistics_move_by_each_view_in_turn(state, aux):
    """Torch's rule by hand at the projector's first layer: momentum 0.1, unbiased variance, view 1 then view 2."""
    params, rest = state
    kernel = np.asarray(params["head"]["fc0"]["kernel"])
    mean, var = (np.asarray(rest["stats"]["head"]["norm0"][k]) for k in ("mean", "var"))
    for latent in (aux.seen["latent"], aux.seen["latent_2"]):
        x = np.asarray(latent)[:, 1:].mean(axis=1) @ kernel
        mean, var = 0.9 * mean + 0.1 * x.mean(0), 0.9 * var + 0.1 * x.var(0, ddof=1)
    np.testing.assert_allclose(aux.stats["head"]["norm0"]["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(aux.stats["head"]["norm0"]["var"], var, rtol=1e-4)
    _, still = jax.jit(lambda p, r: loss(p, r, train=False))(*state)
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (still.stats, rest["stats"])), strict=True))


def test_the_teacher_reads_its_own_running_statistics(state, aux):
    params, rest = state
    shifted = jax.tree.map(lambda s: s + 1, rest["ema"]["stats"])
    other = run(params, rest | {"ema": rest["ema"] | {"stats": shifted}}, BATCH)[1]
    assert not np.allclose(other.seen["z"], aux.seen["z"])
    np.testing.assert_array_equal(other.seen["q"], aux.seen["q"])
    company = {name: image.at[1:].set(0.0) for name, image in BATCH.items()}  # and not those of its batch
    other = run(params, rest, company)[1]
    np.testing.assert_allclose(other.seen["z"][0], aux.seen["z"][0], atol=1e-5)
    assert not np.allclose(other.seen["q"][0], aux.seen["q"][0])


def test_the_teacher_averages_weights_and_statistics(state):
    params, rest = state
    student = TINY.start_ema(params, rest["stats"])
    assert set(student["params"]) == {"encoder", "head"} and "norm0" in student["stats"]["head"]

    def evolve(momentum, step):
        method = dataclasses.replace(TINY, momentum=momentum)
        return method.evolve(rest["ema"], params, rest["stats"], Context(jax.random.key(0), step, steps=10))

    def same(a, b):
        return all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    assert same(evolve(0.0, 0), student)  # 0 copies
    assert same(evolve(1.0, 0), rest["ema"]) and same(evolve(0.0, 10), rest["ema"])  # 1, as at the end, keeps
    half = evolve(0.5, 5)["params"]["encoder"]["norm"]["bias"]  # 1 - (1 - 0.5) (1 + cos(pi / 2)) / 2 = 0.75
    old, new = (x["params"]["encoder"]["norm"]["bias"] for x in (rest["ema"], student))
    np.testing.assert_allclose(half, 0.75 * old + 0.25 * new, rtol=1e-6)


def test_learning_rate_follows_the_root_of_the_batch():
    assert scaled(1.5e-4, 4096, "sqrt") == pytest.approx(16 * 1.5e-4) == pytest.approx(2.4e-3)
    assert scaled(1.5e-4, 1024, "sqrt") == pytest.approx(8 * 1.5e-4)


@pytest.mark.parametrize(
    "fields, parts, couples",
    [
        (dict(head_norm="ln", head_activation="gelu", head_depth=3), {"head", "predictor"}, ()),
        (dict(head_norm="none", predictor_depth=0), {"head"}, ()),
        (dict(head_depth=1, predictor_depth=1), {"head", "predictor"}, ()),
    ],
)
def test_heads(fields, parts, couples):
    method = dataclasses.replace(TINY, **fields)
    params, stats = jax.eval_shape(method.init, jax.random.key(0), BATCH)
    assert set(params) == {"encoder", "decoder"} | parts and stats == {} and method.couples == couples
    assert len([k for k in params["head"] if k.startswith("fc")]) == method.head_depth
    ema = jax.eval_shape(method.start_ema, params, stats)
    rest = {"stats": stats, "ema": ema, "frozen": {}}

    def heads(params, rest):
        _, aux = loss(params, rest, method=method)
        return aux.seen["q"], aux.stats

    q, stats = jax.eval_shape(heads, params, rest)
    assert q.shape == (4, 24) and stats == {}
    assert TINY.couples == ("bn",)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(mask_ratio=0.4), "method.mask_ratio=0.4 leaves 9 of 16 patches visible in each view"),
        (dict(patch=5), "does not divide"),
        (dict(heads=5), "method.dim=24 must be a multiple of method.heads=5"),
        (dict(predictor_depth=-1), "method.predictor_depth=-1"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(TINY, **fields).check()
    dataclasses.replace(TINY, mask_ratio=0.5).check()
