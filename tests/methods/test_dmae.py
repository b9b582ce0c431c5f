"""DMAE's invariants (papers/dmae): one mask, a teacher that stops early, alignment in closed form."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.dmae import DMAE
from mae_jax.methods.mae import MAE

TINY = DMAE(
    image_size=16, patch=4, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1, decoder_heads=3,
    pairs=((0, 1),), teacher_dim=24, teacher_depth=3, teacher_heads=3, teacher_decoder_dim=12, teacher_decoder_depth=1,
    teacher_decoder_heads=3,
)  # fmt: skip
FULL = dataclasses.replace(TINY, full_teacher=True)
BATCH = {"image": jax.random.normal(jax.random.key(7), (3, 16, 16, 3))}


@functools.cache
def start(method):
    return jax.jit(method.init)(jax.random.key(0), BATCH)[0]


@functools.cache
def teacher(method):
    """Weights of the whole teacher, or of the part that a method reads."""
    net = dataclasses.replace(method, full_teacher=True).teacher
    whole = tree.flatten(jax.tree.map(lambda s: 0.2 * jax.random.normal(jax.random.key(s.size), s.shape), net.shapes()))
    return tree.unflatten({path: whole[path] for path in tree.flatten(method.teacher.shapes())})


@functools.partial(jax.jit, static_argnames="method")
def losses(method, params, frozen):
    """(metrics, seen)"""
    rest = {"stats": {}, "ema": {}, "frozen": {} if frozen is None else {"teacher": frozen}}
    _, aux = method.loss(params, rest, BATCH, Context(jax.random.key(0), 2))
    return aux.metrics, aux.seen


@functools.partial(jax.jit, static_argnames="method")
def gradients(method, params, frozen):
    """(metrics, the loss's gradient, the alignment's)"""

    def both(params):
        metrics, _ = losses(method, params, frozen)
        return (metrics["loss"], metrics["alignment"]), metrics

    _, back, metrics = jax.vjp(both, params, has_aux=True)
    return metrics, back((1.0, 0.0))[0], back((0.0, 1.0))[0]


def test_a_teacher_that_stops_early_gives_the_same_losses_and_gradients():
    """Also without the weights above: they are not even read."""
    assert len(teacher(TINY)["encoder"]["blocks"]) == 2 and "decoder" not in teacher(TINY)
    assert len(teacher(FULL)["encoder"]["blocks"]) == 3 and TINY.cost().once < 0.75 * FULL.cost().once
    metrics, grads, _ = gradients(TINY, start(TINY), teacher(TINY))
    more, others, _ = gradients(FULL, start(TINY), teacher(FULL))
    for name in ("loss", "reconstruction", "alignment"):
        np.testing.assert_allclose(metrics[name], more[name], rtol=1e-6)
    assert set(more) - set(metrics) == {"teacher_reconstruction"} and more["teacher_reconstruction"] > 0
    for path, g in tree.flatten(grads).items():
        np.testing.assert_allclose(g, tree.flatten(others)[path], rtol=1e-4, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("head, distance", [("linear", "l1"), ("mlp", "l2"), ("double_mlp", "l1")])
def test_alignment_is_the_distance_of_unit_vectors(head, distance):
    """By hand, from the blocks' outputs and the head's weights; a teacher five times as long changes nothing."""
    method = dataclasses.replace(TINY, head=head, distance=distance)
    params = start(method)
    metrics, seen = losses(method, params, teacher(TINY))
    x = np.asarray(seen["student_block_0"], np.float64)
    assert x.shape == (3, 5, 16) and seen["teacher_block_1"].shape == (3, 5, 24)  # the class token, and 4 of 16
    dense = lambda x, p: x @ np.asarray(p["kernel"]) + np.asarray(p["bias"])
    gelu = lambda x: np.asarray(jax.nn.gelu(x, approximate=False))
    for layer in params["heads"]["0"].values():
        if "fc" in layer:
            assert layer["fc"]["kernel"].shape[1] == 24
            x = gelu(dense(x, layer["fc"]))
        x = dense(x, layer["proj"])
    unit = lambda y: y / np.linalg.norm(y, axis=-1, keepdims=True)
    difference = unit(5 * np.asarray(seen["teacher_block_1"])) - unit(x)
    expected = np.abs(difference).mean() if distance == "l1" else np.square(difference).mean()
    np.testing.assert_allclose(metrics["alignment"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], metrics["reconstruction"] + expected, rtol=1e-5)
    assert len(params["heads"]["0"]) == (2 if head == "double_mlp" else 1)


def test_a_student_that_is_its_teacher_is_aligned():
    method = dataclasses.replace(
        TINY, head="none", teacher_dim=16, teacher_heads=2, depth=1, teacher_depth=1, pairs=((0, 0),)
    )  # fmt: skip
    params = start(method)
    assert "heads" not in params
    own = tree.unflatten({p: x for p, x in tree.flatten(params).items() if p in tree.flatten(method.teacher.shapes())})
    metrics, seen = losses(method, params, own)
    assert metrics["alignment"] < 1e-6  # only the same visible patches in the same order give that
    np.testing.assert_allclose(seen["student_block_0"], seen["teacher_block_0"], atol=1e-5)
    metrics, _ = losses(method, params, jax.tree.map(lambda x: x + 0.05, own))
    assert metrics["alignment"] > 1e-3


def test_alignment_reaches_the_blocks_up_to_the_aligned_one():
    _, _, grads = gradients(TINY, start(TINY), teacher(TINY))
    reached = {path for path, g in tree.flatten(grads).items() if np.abs(g).max() > 0}
    assert any(p.startswith("encoder/blocks/0/") for p in reached) and "encoder/patch_embed/kernel" in reached
    assert "heads/0/0/proj/kernel" in reached
    assert not any(p.startswith(("encoder/blocks/1/", "encoder/norm/", "decoder/")) for p in reached)


def test_without_pairs_it_is_mae_to_the_bit():
    method = dataclasses.replace(TINY, depth=1, pairs=())
    mae = MAE(image_size=16, patch=4, dim=16, depth=1, heads=2, decoder_dim=12, decoder_depth=1, decoder_heads=3)
    assert method.frozen() == {} and method.cost() == mae.cost()
    metrics, _ = losses(method, start(method), None)
    assert set(metrics) == {"loss", "reconstruction"}
    assert metrics["loss"] == metrics["reconstruction"] == losses(mae, start(method), None)[0]["loss"]


@pytest.mark.parametrize("dim, depth, heads, encoder, total", [(384, 12, 6, 21.7, 47.6), (768, 12, 12, 85.8, 111.9)])
def test_published_sizes_in_millions(dim, depth, heads, encoder, total):
    """The sheet's counts include the fixed tables: (196 + 1) rows of either width."""
    method = DMAE(dim=dim, depth=depth, heads=heads)
    count = lambda t: sum(s.size for s in jax.tree.leaves(t))
    shapes = method.net.shapes()
    tables = 197 * (dim + 512)
    assert round((count(shapes["encoder"]) + 197 * dim) / 1e6, 1) == pytest.approx(encoder, abs=0.11)
    assert round((count(shapes) + tables) / 1e6, 1) == pytest.approx(total, abs=0.11)
    whole = dataclasses.replace(method, full_teacher=True).teacher.shapes()
    assert (count(whole) + 197 * (1024 + 512)) / 1e6 == pytest.approx(329.5, abs=0.1)
    assert len(method.teacher.shapes()["encoder"]["blocks"]) == 18


@pytest.mark.parametrize(
    "fields, word",
    [
        (dict(pairs=((2, 2),)), "the student has 2"),
        (dict(pairs=((0, 3),)), "the teacher 3"),
        (dict(head="none"), "head='linear'"),
        (dict(teacher_heads=5), "teacher_dim"),
    ],
)
def test_fields_that_do_not_fit(fields, word):
    with pytest.raises(UserError, match=word):
        dataclasses.replace(TINY, **fields).check()
