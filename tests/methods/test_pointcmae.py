"""Point-CMAE's own invariants (papers/pointcmae)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core import tree
from mae_jax.core.keys import Context
from mae_jax.losses.similarity import unit
from mae_jax.methods.pointcmae import PointCMAE, contrasted
from mae_jax.methods.pointmae import PointMAE
from mae_jax.nets.layers import apply_stats
from mae_jax.train.build import sample_batch

SIZES = dict(points=48, groups=8, group_points=6, dim=12, depth=1, heads=2, decoder_depth=1, decoder_heads=3)
METHOD = PointCMAE(**SIZES, drop_path=0.0)
KEY = jax.random.key(0)
POINTS = jax.random.normal(jax.random.key(1), (2, 48, 3))
NOISE = {f"mask{i}": jax.random.uniform(jax.random.key(i), (2, 8)) for i in (1, 2)}


def loss(params, stats, method=METHOD, given=NOISE, train=False):
    rest = {"stats": stats, "ema": {}, "frozen": {}}
    return method.loss(params, rest, {"points": POINTS}, Context(KEY, train=train, given=given))


def contrast(params, stats):
    value, aux = loss(params, stats)
    return aux.metrics["contrast"], (value, aux)


both = jax.jit(jax.grad(contrast, has_aux=True))


@pytest.fixture(scope="module")
def weights():
    params, stats = jax.jit(METHOD.init)(KEY, sample_batch(METHOD))
    return jax.tree.map(lambda p: p + 0.05 * jax.random.normal(jax.random.key(p.size), p.shape), params), stats


@pytest.fixture(scope="module")
def found(weights):
    return both(*weights)


def test_sizes_of_the_published_model():
    """Sheet, in millions: the whole, and the encoder side with tokenizer and projection."""
    method = PointCMAE()
    params, _ = jax.eval_shape(method.init, KEY, sample_batch(method))
    assert abs(tree.size(params) / 1e6 - 36.35) < 0.01
    side = sum(tree.size(params[part]) for part in ("encoder", "tokenizer", "projector"))
    assert abs(side / 1e6 - 21.99) < 0.01


def test_both_passes_hide_equally_many(found):
    _, (_, aux) = found
    for i in (1, 2):
        assert (np.asarray(aux.seen[f"hidden{i}"]).sum(1) == 4).all()
    assert (np.asarray(aux.seen["hidden1"]) != np.asarray(aux.seen["hidden2"])).any()


@pytest.mark.slow
def test_each_pass_is_point_mae_with_its_class_token_and_decoder(weights, found):
    params, stats = weights
    single = PointMAE(**SIZES, drop_path=0.0, class_token=True)
    errors = []

    @jax.jit
    def error(params, noise):
        ctx = Context(KEY, train=False, given={"mask": noise})
        return single.loss(params, {"stats": stats, "ema": {}, "frozen": {}}, {"points": POINTS}, ctx)[0]

    for i in (1, 2):
        own = {k: params["encoder"][k] for k in ("place", "blocks", "norm")}
        own = {"tokenizer": params["tokenizer"], "decoder": params[f"decoder{i}"],
               "encoder": own | {"class1": params["encoder"][f"class{i}"]}}  # fmt: skip
        errors.append(error(own, NOISE[f"mask{i}"]))
    _, (value, aux) = found
    np.testing.assert_allclose(aux.metrics["reconstruction"], sum(errors), rtol=1e-5)
    np.testing.assert_allclose(value, 1000 * sum(errors) + aux.metrics["contrast"], rtol=1e-5)


def test_contrast_by_its_formula_and_by_directions_alone(found):
    _, (_, aux) = found
    seen = aux.seen
    co = np.asarray(seen["hidden1"]) & np.asarray(seen["hidden2"])
    features = []
    for i in (1, 2):
        order = np.concatenate([seen[f"keep_ids{i}"], seen[f"drop_ids{i}"]], axis=1)
        placed = np.empty_like(np.asarray(seen[f"features{i}"]))
        np.put_along_axis(placed, order[:, :, None], np.asarray(seen[f"features{i}"]), axis=1)
        features.append(placed / np.linalg.norm(placed, axis=-1, keepdims=True))
    cosine = np.einsum("bid,bjd->bij", *features)
    every = np.mean([1 - cosine[b, i].mean() for b, i in zip(*np.nonzero(co))])
    own = np.mean([1 - cosine[b, i, i] for b, i in zip(*np.nonzero(co))])
    np.testing.assert_allclose(aux.metrics["contrast"], every, atol=1e-6)
    first, second = (jnp.asarray(f) for f in features)
    np.testing.assert_allclose(contrasted(first, second, jnp.asarray(co), "same")[0], own, atol=1e-6)
    np.testing.assert_allclose(contrasted(unit(7 * first), second, jnp.asarray(co), "same")[0], own, atol=1e-6)
    assert 0 <= own <= 2 and 0 <= every <= 2


@pytest.mark.slow
def test_equal_passes_agree(weights):
    params, stats = weights
    encoder = params["encoder"] | {"class2": params["encoder"]["class1"]}
    params = params | {"encoder": encoder, "decoder2": params["decoder1"]}
    given = {"mask1": NOISE["mask1"], "mask2": NOISE["mask1"]}
    same = dataclasses.replace(METHOD, pairing="same")
    _, aux = jax.jit(lambda p: loss(p, stats, same, given))(params)
    np.testing.assert_allclose(aux.metrics["contrast"], 0.0, atol=1e-6)
    np.testing.assert_allclose(aux.metrics["agreement"], 1.0, atol=1e-6)


def test_the_contrast_has_no_gradient_in_last_norms_and_heads(found):
    for path, g in tree.flatten(found[0]).items():
        none = path.startswith(("projector/", *(f"decoder{i}/{part}/" for i in (1, 2) for part in ("norm", "pred"))))
        assert bool((g == 0).all()) == none, path


def test_statistics_of_the_tokenizer_move_once(weights, found):
    params, stats = weights
    _, (_, aux) = found
    jax.tree.map(np.testing.assert_array_equal, aux.stats, stats)  # not in eval mode
    _, aux = jax.jit(lambda p, s: loss(p, s, train=True))(params, stats)
    groups = aux.seen["groups"]
    once = apply_stats(METHOD.tokenizer, params["tokenizer"], stats["tokenizer"], groups, train=True)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), aux.stats["tokenizer"], once)
    assert not np.allclose(once["norm1"]["mean"], stats["tokenizer"]["norm1"]["mean"])
