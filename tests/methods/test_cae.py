"""CAE's own invariants (papers/cae), the law of its initial tensors, and its sizes."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_methods import make

from mae_jax.core import tree
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.masking.select import complement, from_ids, select
from mae_jax.methods.cae import CAE
from mae_jax.nets.block import Transformer
from mae_jax.nets.layers import apply
from mae_jax.nets.regressor import RegressorBlock
from mae_jax.nets.tokenizers import DalleEncoder
from mae_jax.tokens.grid import patchify, unpatchify
from mae_jax.train.build import sample_batch

METHOD, PARAMS, REST, BATCH = make("cae")
NOISE = jax.random.uniform(jax.random.key(2), (4, 16))


@jax.jit
def run(params, batch, given):
    return METHOD.loss(params, REST, batch, Context(jax.random.key(0), train=False, given=given))


@pytest.fixture(scope="module")
def seen():
    return run(PARAMS, BATCH, {"mask": NOISE})[1].seen


def test_labels_are_the_nearest_centroids_at_hidden_places_in_raster_order(seen):
    patches = np.asarray(patchify(BATCH["image_2"], (2, 4)))
    centroids = np.asarray(REST["frozen"]["tokenizer"]["centroids"])
    codes = np.square(patches[:, :, None] - centroids).sum(-1).argmin(-1)
    hidden = np.asarray(seen["hidden"])
    assert hidden.sum(axis=1).tolist() == [METHOD.masked] * 4
    np.testing.assert_array_equal(np.asarray(seen["labels"]).ravel(), codes[hidden])
    found = np.asarray(seen["codes_predict"])
    np.testing.assert_array_equal(found[hidden], np.asarray(seen["logits"]).argmax(-1).ravel())
    np.testing.assert_array_equal(found[~hidden], codes[~hidden])


def test_loss_is_cross_entropy_and_weighted_distance(seen):
    value, aux = run(PARAMS, BATCH, {"mask": NOISE})
    logits, labels = np.asarray(seen["logits"], np.float64).reshape(-1, 5), np.asarray(seen["labels"]).ravel()
    ce = (np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]).mean()
    align = np.square(np.asarray(seen["latent_predict"]) - np.asarray(seen["latent_target"])).mean()
    np.testing.assert_allclose([aux.metrics["ce"], aux.metrics["align"], value], [ce, align, ce + 2 * align], rtol=1e-5)


def test_uniform_logits_cost_the_log_of_the_vocabulary():
    head = jax.tree.map(jnp.zeros_like, PARAMS["decoder"]["head"])
    params = PARAMS | {"decoder": PARAMS["decoder"] | {"head": head}}
    np.testing.assert_allclose(run(params, BATCH, {"mask": NOISE})[1].metrics["ce"], math.log(5), rtol=1e-6)


def test_targets_do_not_depend_on_visible_pixels(seen):
    tokens = patchify(BATCH["image"], (2, 4))
    hidden = seen["hidden"][:, :, None]
    others = []
    for changed in (jnp.where(hidden, tokens, 9.0), jnp.where(hidden, 9.0, tokens)):
        image = unpatchify(changed, METHOD.grid, (2, 4))
        others.append(run(PARAMS, BATCH | {"image": image}, {"mask": NOISE})[1].seen["latent_target"])
    np.testing.assert_array_equal(others[0], seen["latent_target"])
    assert not np.allclose(others[1], seen["latent_target"])


def test_no_gradient_flows_through_the_target():
    def total(name):
        def f(params):
            context = Context(jax.random.key(0), train=False, given={"mask": NOISE})
            return METHOD.loss(params, REST, BATCH, context)[1].seen[name].astype(jnp.float32).std()

        return sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(jax.jit(jax.grad(f))(PARAMS)))

    assert total("latent_target") == 0.0 and total("latent_predict") > 0.1


def test_alignment_branch_is_the_same_encoder_with_draws_of_its_own():
    """Where all drop-path draws are equal the target is `encode` of the hidden patches; alone it can be changed."""
    method = dataclasses.replace(METHOD, drop_path=0.5)

    @jax.jit
    def train(given):
        return method.loss(PARAMS, REST, BATCH, Context(jax.random.key(0), given={"mask": NOISE, **given}))[1].seen

    keep, lose = jnp.zeros((4, 2, 2)), jnp.full((4, 2, 2), 0.9)
    first = train({"encoder/drop_path": keep, "align/encoder/drop_path": keep})
    second = train({"encoder/drop_path": keep, "align/encoder/drop_path": lose})
    np.testing.assert_array_equal(first["latent"], second["latent"])
    assert not np.allclose(first["latent_target"], second["latent_target"])
    mask = complement(select(NOISE, 16 - METHOD.masked, order="raster"))
    plain = apply(METHOD.encoder, PARAMS["encoder"], BATCH["image"], mask)
    target = apply(METHOD.projection, PARAMS["projection"], plain.normed)
    evaluated = run(PARAMS, BATCH, {"mask": NOISE})[1].seen["latent_target"]
    np.testing.assert_allclose(evaluated, target, atol=1e-5)


def test_regressor_ignores_the_order_of_visible_tokens_and_follows_that_of_hidden_ones():
    mask = select(NOISE, 7, order="raster")
    visible = jax.random.normal(jax.random.key(3), (4, 7, 12))
    turned = from_ids(mask.keep_ids[:, ::-1], mask.drop_ids[:, ::-1])

    @jax.jit
    def predict(visible, mask):
        latent = apply(METHOD.regressor, PARAMS["regressor"], visible, mask, METHOD.grid)
        return latent, apply(METHOD.decoder, PARAMS["decoder"], latent, mask, METHOD.grid)

    for first, second in zip(predict(visible, mask), predict(visible[:, ::-1], turned)):
        np.testing.assert_allclose(second[:, ::-1], first, atol=1e-5)
    assert not np.allclose(predict(visible[:, ::-1], mask)[0], predict(visible, mask)[0], atol=1e-3)


def test_second_residual_of_a_regressor_block_starts_from_the_normalised_tensor():
    block = RegressorBlock(Transformer(8, 1, 2, layer_scale=0.1))
    z, visible = jax.random.normal(jax.random.key(4), (2, 3, 8)), jnp.ones((2, 5, 8))
    args = (z * 7 + 2, visible, jnp.zeros((2, 3, 8)), jnp.zeros((2, 5, 8)))
    params = block.init(jax.random.key(5), *args)["params"]
    params["scale2"]["gamma"] *= 0
    out = np.asarray(apply(block, params, *args))
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(-1), 1, rtol=1e-3)


def test_regressor_sees_positions_in_keys_and_queries_but_not_in_values():
    """With one key only, the attention's output is its value: positions of the key must not matter."""
    block = RegressorBlock(Transformer(8, 1, 2))
    z, none = jax.random.normal(jax.random.key(4), (1, 1, 8)), jnp.zeros((1, 0, 8))
    params = block.init(jax.random.key(5), z, none, z, none)["params"]
    outs = [apply(block, params, z, none, pos, none) for pos in (0 * z, 5 * z[:, :, ::-1])]
    np.testing.assert_allclose(outs[0], outs[1], atol=1e-6)


def test_parameter_counts_of_the_published_models():
    """Sheet, in millions; the fixed tables are no parameters here."""
    for fields, encoder, regressor, decoder in (
        (dict(), 85.8, 28.4, 34.7), (dict(dim=1024, depth=24, heads=16), 303.3, None, None),
    ):  # fmt: skip
        method = CAE(**fields)
        shapes, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
        n = 197 * method.dim
        assert abs((tree.size(shapes["encoder"]) + n) / 1e6 - encoder) < 0.2
        for name, wanted in (("regressor", regressor), ("decoder", decoder)):
            assert wanted is None or abs(tree.size(shapes[name]) / 1e6 - wanted) < 0.06
        assert ("projection" in shapes) == (method.dim != 768)


def test_twelve_heads_of_85_at_width_1024():
    method = CAE(decoder_dim=1024, depth=1, regressor_depth=1, decoder_depth=1)
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    assert shapes["decoder"]["blocks"]["0"]["attn"]["qkv"]["kernel"].shape == (1024, 3 * 1020)
    assert shapes["regressor"]["blocks"]["0"]["attn"]["proj"]["kernel"].shape == (1020, 1024)
    assert sorted(shapes["regressor"]["blocks"]["0"]["attn"]["k"]) == ["kernel"]


def test_init_laws():
    method = CAE(
        image_size=32, patch=8, dim=192, depth=2, decoder_dim=96, regressor_depth=1, decoder_depth=1, vocab=64,
        layer_scale=1e-5, masked=8, block_min=2,
    )  # fmt: skip
    params = tree.flatten(jax.jit(method.init)(jax.random.key(0), sample_batch(method))[0])
    for path, p in params.items():
        p = np.asarray(p)
        if path == "encoder/patch_embed/kernel" or path.endswith("_token"):  # N(0, 0.02) cut at one deviation
            assert 0.015 < np.abs(p).max() <= 0.02 and abs(p.std() - 0.0108) < 0.0015, path
        elif path.endswith("/kernel"):
            bound = (6 / sum(p.shape)) ** 0.5
            assert 0.95 * bound < np.abs(p).max() <= bound, path
        elif path.endswith("/gamma"):
            assert (p == np.float32(1e-5 if path.startswith("encoder") else 0.1)).all(), path
        else:
            assert (p == (1.0 if path.endswith("/scale") else 0.0)).all(), path


def test_without_layer_scale_there_are_no_factors():
    method = dataclasses.replace(METHOD, layer_scale=0.0, decoder_layer_scale=0.0, qkv_bias=False, masking="random")
    params, _ = jax.eval_shape(method.init, jax.random.key(0), sample_batch(method))
    assert not any(path.endswith(("gamma", "q_bias")) for path in tree.flatten(params))
    mask = method.mask(Context(jax.random.key(0), given={"mask": NOISE}), 4)
    np.testing.assert_array_equal(mask.hidden, select(NOISE, 16 - METHOD.masked).hidden)


def test_dalle_reads_the_same_crop_at_eight_pixels_a_patch():
    leaf = CAE().batch_spec["image_2"]
    assert leaf.shape == (112, 112, 3) and leaf.unit and leaf.crop_of == "image" and leaf.resample == "lanczos"
    net = DalleEncoder(vocab=6, width=4, depth=1)
    logits, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.ones((2, 16, 24, 3)))
    assert logits.shape == (2, 6, 6)


def test_pictures_paint_codes_by_their_centroids(seen):
    drawn = METHOD.pictures(seen | {"codes_predict": seen["codes"]}, BATCH)
    np.testing.assert_array_equal(drawn["codes_predicted"], drawn["codes"])
    centroids = np.asarray(REST["frozen"]["tokenizer"]["centroids"]).reshape(5, 2, 4, 2).mean(-1)
    np.testing.assert_allclose(drawn["codes"][1, :2, :4, 0], centroids[seen["codes"][1, 0]], rtol=1e-5)
    assert (np.asarray(drawn["masked"]) == 0).mean() == METHOD.masked / 16
    grey = np.asarray(dataclasses.replace(METHOD, tokenizer="dalle", vocab=8192)._palette({}))
    assert grey.min() >= 0 and grey.max() < 1 and len(np.unique(grey[:, 0])) == 8192


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(patch=5), "does not divide"),
        (dict(masked=16), "at least one must be hidden and one visible"),
        (dict(masked=0), "at least one must be hidden"),
        (dict(block_min=10), "must fit into the method.masked=9"),
        (dict(block_aspect=2.0), "method.block_aspect=2.0"),
        (dict(tokenizer="dalle"), "DALL-E's tokenizer reads three"),
        (dict(dim=18), "method.dim=18 must be a multiple of 4"),
        (dict(decoder_heads=16), "method.decoder_heads=16"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        dataclasses.replace(METHOD, **fields).check()
