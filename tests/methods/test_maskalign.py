"""MaskAlign's invariants (papers/maskalign)."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.losses.layers import layer_weights
from mae_jax.methods.maskalign import MaskAlign
from mae_jax.nets.layers import apply

TINY = MaskAlign(
    image_size=16, patch=4, dim=16, depth=2, heads=2, drop_path=0.0, mask_ratio=0.7, teacher_dim=12, teacher_depth=2,
    teacher_heads=3, teacher_patch=4, teacher_size=16, layer_weights="top1",
)  # fmt: skip
IMAGE = jax.random.normal(jax.random.key(7), (3, 16, 16, 3))
N, KEEP = 16, 4
FROZEN = jax.tree.map(
    lambda s: 0.3 * jax.random.normal(jax.random.key(s.size), s.shape),
    jax.eval_shape(TINY.tower.init, jax.random.key(0), IMAGE)["params"],
)
GIVEN = {
    "teacher_hidden": jax.random.normal(jax.random.key(1), (3, 3, 1 + N, 12)),
    "teacher_attention": jax.nn.softmax(jax.random.normal(jax.random.key(2), (3, 3, 1 + N, 1 + N))),
}


@functools.partial(jax.jit, static_argnames="method")
def run(method, params, image, frozen, given):
    rest = {"stats": {}, "ema": {}, "frozen": {"teacher": frozen}}
    return method.loss(params, rest, {"image": image}, Context(jax.random.key(0), given=given))


def loss(method, params, image=IMAGE, frozen=FROZEN, **given):
    return run(method, params, image, frozen, given)


@functools.cache
def start(method):
    return jax.jit(method.init)(jax.random.key(0), {"image": IMAGE})[0]


@pytest.fixture(scope="module")
def params():
    return start(TINY)


@pytest.mark.parametrize("distance", ["smoothl1", "l2", "l1"])
def test_loss_is_zero_where_the_student_says_what_the_teacher_says(params, distance):
    method = dataclasses.replace(TINY, target_norm="none", distance=distance)
    value, aux = loss(method, params, **GIVEN)
    hidden = np.array(GIVEN["teacher_hidden"])
    for row, (ids, said) in enumerate(zip(np.asarray(aux.seen["keep_ids"]), np.asarray(aux.seen["student_last"]))):
        hidden[-1, row, [0, *(1 + ids)]] = said
    assert value > 0.1
    assert loss(method, params, **GIVEN | {"teacher_hidden": jnp.asarray(hidden)})[0] < 1e-12


def test_the_teacher_gets_no_gradient(params):
    gradient = jax.grad(lambda frozen: loss(TINY, params, frozen=frozen)[0])(FROZEN)
    assert all((g == 0).all() for g in jax.tree.leaves(gradient))
    moved = jax.tree.map(lambda x: 1.1 * x, FROZEN)
    assert loss(TINY, params, frozen=moved)[0] != loss(TINY, params)[0]  # although the loss depends on it


def test_where_the_mixing_matrix_starts(params):
    np.testing.assert_allclose(params["mix"], [[1.01, 0.01], [0.01, 1.01]])
    unequal = dataclasses.replace(TINY, depth=3, fusion="sum")
    np.testing.assert_allclose(start(unequal)["mix"], np.full((2, 3), 1 / 3))


def test_the_fused_feature_of_a_layer_is_a_sum_over_student_blocks(params):
    mix = jnp.asarray([[5.0, 7.0], [0.3, -2.0]])
    _, aux = loss(TINY, params | {"mix": mix}, **GIVEN)
    fused = 0.3 * aux.seen["blocks"][0] - 2.0 * aux.seen["blocks"][1]
    np.testing.assert_allclose(aux.seen["student_last"], apply(TINY.adaptor, params["heads"]["1"], fused), atol=1e-5)


def test_the_class_token_is_always_aligned(params):
    _, aux = loss(TINY, params, **GIVEN)
    assert aux.seen["blocks"].shape == (2, 3, 1 + KEEP, 16)
    last = np.asarray(GIVEN["teacher_hidden"][-1])
    white = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-5)
    ids = np.asarray(aux.seen["keep_ids"])
    expected = np.stack([white[row, [0, *(1 + kept)]] for row, kept in enumerate(ids)])
    np.testing.assert_allclose(aux.seen["teacher_last"], expected, atol=1e-5)


def test_importance_is_the_class_tokens_attention_to_patches(params):
    _, aux = loss(TINY, params, **GIVEN)
    np.testing.assert_allclose(aux.seen["importance"], GIVEN["teacher_attention"].mean(1)[:, 0, 1:], rtol=1e-6)
    order = jnp.tile(jnp.arange(N, dtype=jnp.float32)[None], (3, 1))
    attention = jnp.zeros((3, 3, 1 + N, 1 + N)).at[:, :, 0, 1 + jnp.array([2, 5, 7, 11])].set(0.1)
    seen = loss(TINY, params, **GIVEN | {"teacher_attention": attention})[1].seen
    assert np.sort(seen["keep_ids"], axis=1).tolist() == [[2, 5, 7, 11]] * 3  # all others have weight 0
    assert loss(TINY, params, order=order, **GIVEN)[1].seen["keep_ids"].tolist() == [[0, 1, 2, 3]] * 3


def test_hidden_pixels_do_not_reach_the_loss_where_the_teacher_is_given(params):
    value, aux = loss(TINY, params, **GIVEN)
    hidden = np.asarray(aux.seen["hidden"]).reshape(3, 4, 4).repeat(4, axis=1).repeat(4, axis=2)[..., None]
    assert loss(TINY, params, image=jnp.where(hidden, 9.0, IMAGE), **GIVEN)[0] == value
    assert loss(TINY, params, image=jnp.where(hidden, IMAGE, 9.0), **GIVEN)[0] != value


def test_nothing_hidden(params):
    seen = jax.eval_shape(lambda: loss(dataclasses.replace(TINY, mask_ratio=0.0), params, **GIVEN)[1].seen)
    assert seen["blocks"].shape == (2, 3, 1 + N, 16)


def test_drop_path_is_off_outside_training(params):
    dropping, context = dataclasses.replace(TINY, drop_path=0.9), Context(jax.random.key(0), train=False, given=GIVEN)
    rest = {"stats": {}, "ema": {}, "frozen": {}}
    value, _ = dropping.loss(params, rest, {"image": IMAGE}, context)
    np.testing.assert_allclose(value, loss(TINY, params, **GIVEN)[0], rtol=1e-6)
    assert loss(dropping, params, **GIVEN)[0] != loss(TINY, params, **GIVEN)[0]


@pytest.mark.parametrize(
    "rule, expected",
    [
        ("mean", [1 / 4] * 4),
        ("out", [0, 0, 0, 1]),
        ("top3", [0, 1 / 3, 1 / 3, 1 / 3]),
        ("mid1", [0, 1, 0, 0]),
        ("linear_decay", [0, 1 / 6, 2 / 6, 3 / 6]),  # OpenDriveLab/maskalign: from 0, so the first layer is left out
    ],
)
def test_layer_weights(rule, expected):
    np.testing.assert_allclose(layer_weights(rule, 4), expected)


@pytest.mark.parametrize("rule", ["top0", "top5", "mid4", "topk", "first", "5"])
def test_layer_weights_that_are_none(rule):
    with pytest.raises(UserError, match=re.escape(f"layer_weights='{rule}' is no rule for 4 layers")):
        layer_weights(rule, 4)


def test_the_teacher_sees_its_own_normalisation_and_size():
    clip = dict(teacher_mean=(0.48145466, 0.4578275, 0.40821073), teacher_std=(0.26862954, 0.26130258, 0.27577711))
    method = dataclasses.replace(TINY, **clip)
    grey = (0.5 - jnp.asarray(method.mean)) / jnp.asarray(method.std)  # a grey image, ImageNet-normalised
    seen = method.teachers_view(jnp.broadcast_to(grey[None, None, None], (1, 16, 16, 3)))
    expected = [(0.5 - m) / s for m, s in zip(clip["teacher_mean"], clip["teacher_std"])]
    np.testing.assert_allclose(seen[0, 3, 5], expected, rtol=1e-5)
    np.testing.assert_array_equal(TINY.teachers_view(IMAGE), IMAGE)


def test_resizing_for_the_teacher_is_torchs():
    torch = pytest.importorskip("torch")
    small = dataclasses.replace(TINY, teacher_input=12, teacher_patch=3)
    small.check()
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(IMAGE).transpose(0, 3, 1, 2)), (12, 12), mode="bicubic", align_corners=False
    )
    np.testing.assert_allclose(small.teachers_view(IMAGE), theirs.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_sizes_of_the_published_student():
    """ViT-B has 85.8 M parameters with its fixed table; a head per teacher layer, and 12 x 12 mixing weights."""
    method = MaskAlign()
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), {"image": jnp.zeros((1, 224, 224, 3))})
    assert abs((tree.size(shapes["encoder"]) + 197 * 768) / 1e6 - 85.80) < 0.01
    assert tree.size(shapes["heads"]) == 12 * (768 * 768 + 768) and shapes["mix"].shape == (12, 12)
    assert method.keep == 58 and method.used == (7, 8, 9, 10, 11)


@pytest.mark.parametrize(
    "change, couples",
    [(dict(target_norm="bn"), ("bn",)), (dict(target_norm="whiten"), ()), (dict(target_norm="l2"), ())],
)
def test_one_sample_changes_anothers_target_only_under_bn(params, change, couples):
    method = dataclasses.replace(TINY, **change)
    louder = GIVEN["teacher_hidden"].at[:, 0].multiply(3.0)
    first, second = (
        loss(method, params, **GIVEN | {"teacher_hidden": hidden})[1].seen["teacher_last"][1]
        for hidden in (GIVEN["teacher_hidden"], louder)
    )
    assert method.couples == couples and bool((first != second).any()) == bool(couples)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(mask_ratio=0.97), "leaves no visible token"),
        (dict(heads=3), "method.dim=16 must be a multiple of method.heads=3"),
        (dict(teacher_heads=5), "method.teacher_dim=12 must be a multiple"),
        (dict(teacher_patch=2), "Set method.teacher_input to (8, 8) pixels"),
        (dict(depth=3), "method.fusion='sum' takes any depths"),
        (dict(depth=3, fusion="simple"), "method.fusion='sum' takes any depths"),
        (dict(layer_weights="top3"), "no rule for 2 layers"),
        (dict(teacher_mean=(0.5,), teacher_std=(0.5,)), "a number for each of 3 channels"),
        (dict(teacher_mean=(0.5,) * 3, teacher_std=(0.5,) * 3, mean=(0.5,)), "method.mean and method.std"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(TINY, **fields).check()


@pytest.mark.parametrize(
    "change, dead",
    [
        (dict(), {"norm", "head0"}),
        (dict(layer_weights="mean"), {"norm"}),
        (dict(layer_weights="mid0", fusion="simple"), {"norm", "head1", "block1"}),
        (dict(layer_weights="linear_decay", fusion="simple"), {"norm", "head0"}),
    ],
)
def test_dead_parameters_are_declared(params, change, dead):
    patterns = {"norm": "encoder/norm/scale", "head0": "heads/0/proj/kernel", "head1": "heads/1/proj/kernel",
                "block1": "encoder/blocks/1/attn/qkv/kernel"}  # fmt: skip
    method = dataclasses.replace(TINY, **change)
    gradient = tree.flatten(jax.grad(lambda p: loss(method, p, **GIVEN)[0])(start(method)))
    for name, path in patterns.items():
        assert (name in dead) == (not gradient[path].any()) == any(re.search(p, path) for p in method.dead), path
