"""mae_jax.load: the same numbers as Method.encode and Method.loss, whatever the images came as; and clear refusals."""

import dataclasses
import io
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mae_jax
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.weights.opened import opened
from mae_jax.weights.store import Weights, write

N = 11  # no multiple of the eight devices


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (N, 8, 8, 1), np.uint8)


def normalised(images):
    """What the network reads, by its definition."""
    return (images.astype(np.float32) / 255 - np.float32(0.3)) / np.float32(0.37)


def test_importing_the_package_stays_light():
    code = "import sys, mae_jax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules); assert callable(mae_jax.load)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        mae_jax.lod  # noqa: B018


def test_encode_is_the_methods_own(model, images):
    rest = {"stats": {}, "ema": {}, "frozen": {}}
    expected = model.method.encode(model.params, rest, {"image": jnp.asarray(normalised(images))})
    found = model.encode(images, batch=8)  # two batches, the second filled up
    assert found.grid == (4, 4) and found.tokens.shape == (N, 16, 16) and found.prefix.shape == (N, 1, 16)
    for name in ("tokens", "normed", "prefix"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-5, err_msg=name)
    np.testing.assert_allclose(found.pooled(), found.normed.mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(found.pooled("class"), found.prefix[:, 0])
    np.testing.assert_array_equal(found.maps[3, 2, 1], found.normed[3, 2 * 4 + 1])
    np.testing.assert_allclose(model.embed(images, "class", batch=8), found.pooled("class"), atol=1e-6)
    assert "566" not in repr(model) and "encode, attention, reconstruct" in repr(model)


def test_every_way_to_give_images_is_the_same(model, images, tmp_path):
    expected = model.encode(images[:2]).tokens
    path = tmp_path / "a.png"
    Image.fromarray(images[0, :, :, 0]).save(path)
    buffer = io.BytesIO()
    Image.fromarray(images[1, :, :, 0]).save(buffer, "png")
    ways = {
        "paths and bytes": [path, buffer.getvalue()],
        "PIL and grey": [Image.fromarray(images[0, :, :, 0]), images[1, :, :, 0]],
        "int64": images[:2].astype(np.int64),
        "jax": jnp.asarray(images[:2]),
        "[n, h, w]": images[:2, :, :, 0],
        "leaves": {"image": images[:2]},
    }
    for name, given in ways.items():
        np.testing.assert_array_equal(model.encode(given).tokens, expected, err_msg=name)
    for name, given in {"float": images[:2] / 255, "ready": normalised(images[:2])}.items():
        found = model.encode(given, preprocess=name != "ready").tokens
        np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=name)
    np.testing.assert_array_equal(model.encode(path).tokens, expected[:1])  # one image is a batch of one
    colour = np.repeat(images[:1], 3, axis=-1)
    np.testing.assert_array_equal(model.encode([Image.fromarray(colour[0])]).tokens, expected[:1])  # grey is its luma


def test_images_of_other_sizes_are_cropped_as_for_evaluation(model, workdir):
    from mae_jax.data.transforms import resize_and_center_crop

    photos = [
        np.random.default_rng(i).integers(0, 256, (h, w, 1), np.uint8) for i, (h, w) in enumerate([(20, 30), (9, 9)])
    ]
    by_hand = np.stack([resize_and_center_crop(photo, (8, 8)) for photo in photos])
    np.testing.assert_array_equal(model.encode(photos).tokens, model.encode(by_hand).tokens)
    larger = model.encode(photos, size=(8, 12))
    assert larger.grid == (4, 6) and larger.tokens.shape == (2, 24, 16)


def test_attention_is_a_distribution_of_every_block(model, images):
    found = model.attention(images[:3])
    assert len(found.maps) == 2 and found.prefix == 1 and found.grid == (4, 4)
    for weights in found.maps:
        assert weights.shape == (3, 2, 17, 17) and weights.min() >= 0
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.of_class()[1, 0, 2, 3], found.maps[1][1, 0, 0, 1 + 2 * 4 + 3])


def test_reconstruction_is_the_losss_own_and_a_given_mask_is_obeyed(model, images):
    found = model.reconstruct(images, seed=3, batch=8)
    ctx = Context(jax.random.key(3), 0, train=False)
    rest = {"stats": {}, "ema": {}, "frozen": {}}
    _, aux = model.method.loss(model.params, rest, {"image": jnp.asarray(normalised(images))}, ctx)
    np.testing.assert_array_equal(found.hidden, aux.seen["hidden"])  # by the image's number, not by the batch's
    np.testing.assert_allclose(found.pred, aux.seen["pred"], atol=2e-5)
    assert list(found.pictures) == ["original", "masked", "reconstruction", "pasted"]
    np.testing.assert_allclose(found.pictures["original"], images / 255, atol=1e-6)
    assert all(p.min() >= 0 and p.max() <= 1 for p in found.pictures.values())

    upper = np.zeros((4, 4), bool)
    upper[:2] = True
    given = model.reconstruct(images[:3], upper)
    np.testing.assert_array_equal(given.hidden, np.repeat(upper.reshape(1, 16), 3, axis=0))
    pasted, original = given.pictures["pasted"], given.pictures["original"]
    np.testing.assert_array_equal(pasted[:, 4:], original[:, 4:])
    assert (np.abs(pasted - original)[:, :4] > 0.01).any()
    assert (model.reconstruct(images[:3], mask_ratio=0.9).hidden.sum(axis=1) == 15).all()


def test_classify_is_the_head_on_the_pooled_features(model, workdir, images, tmp_path):
    found = opened(workdir)
    kernel = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    head = {"params": {"head": {"kernel": kernel, "bias": np.float32([1, 2, 3])}}}
    info = {"kind": "classifier", "head": {"pool": "class", "classes": ["ant", "bee", "cat"]}}
    weights = Weights(found.weights.config, {"encoder": found.weights.params["encoder"]}, head=head, info=info)
    model = mae_jax.load(write(tmp_path / "head.safetensors", weights))
    result = model.classify(images[:4])
    np.testing.assert_allclose(result.logits, model.embed(images[:4], "class") @ kernel + [1, 2, 3], atol=1e-4)
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-5)
    best = result.top(2)[0]
    assert best[0][0] == ("ant", "bee", "cat")[result.logits[0].argmax()] and best[0][1] >= best[1][1]
    with pytest.raises(UserError, match="are a classifier and cannot reconstruct"):
        model.reconstruct(images)
    normed = dataclasses.replace(weights, info=info | {"head": {"pool": "normed_mean", "classes": 3}})
    model = mae_jax.load(write(tmp_path / "normed.safetensors", normed))
    assert model.classes == ("0", "1", "2")
    np.testing.assert_allclose(
        model.classify(images[:4]).logits, model.embed(images[:4]) @ kernel + [1, 2, 3], atol=1e-4
    )


WRONG = {
    "0..255 as floats": (lambda m, x: m.encode(x.astype(np.float32)), "divide by 255, or give uint8"),
    "normalised": (lambda m, x: m.encode(normalised(x)), "preprocess=False if it is normalised"),
    "NaN": (lambda m, x: m.encode(np.full((8, 8, 1), np.nan)), "no finite numbers"),
    "integers": (lambda m, x: m.encode(x.astype(int) * 9), "0 to 255 expected"),
    "missing file": (lambda m, x: m.encode("no/such.png"), "cannot read the image 'no/such.png'"),
    "broken file": (lambda m, x: m.encode([b"\x89PNG..."]), "cannot use image 0"),
    "folder": (lambda m, x: m.encode("."), "mae_jax embed --source folder:."),
    "channels first": (lambda m, x: m.encode(x.transpose(0, 3, 1, 2)), "channels last"),
    "channels": (lambda m, x: m.encode(np.zeros((8, 8, 3), np.uint8)), "[h, w, 1]"),
    "nothing": (lambda m, x: m.encode([]), "at least 1"),
    "size": (lambda m, x: m.encode(x, size=9), "a multiple of the patch"),
    "pool": (lambda m, x: m.embed(x, "means"), "Did you mean 'mean'?"),
    "leaf": (lambda m, x: m.encode({"images": x}), "image is missing"),
    "ready integers": (lambda m, x: m.encode(x, preprocess=False), "takes normalised floats"),
    "ready shapes": (lambda m, x: m.encode([x[0], x[0, :4]], preprocess=False), "of one size"),
    "mask of nothing": (lambda m, x: m.reconstruct(x, np.zeros(16)), "at least 1 and at most 15"),
    "unequal masks": (lambda m, x: m.reconstruct(x[:2], np.tri(2, 16)), "equally many in each image"),
    "mask size": (lambda m, x: m.reconstruct(x, np.ones((3, 3))), "no mask, or masks, of 16 patches"),
    "masks": (lambda m, x: m.reconstruct(x, np.tile(np.arange(16) > 5, (3, 1))), "3 rows for 11 image(s)"),
    "mask and ratio": (lambda m, x: m.reconstruct(x, np.arange(16) > 5, 0.5), "give one of both"),
    "ratio": (lambda m, x: m.reconstruct(x, mask_ratio=0.99), "leaves no visible token"),
    "no head": (lambda m, x: m.classify(x), "have no classifier's head"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_said_in_a_sentence(model, images, what):
    call, message = WRONG[what]
    with pytest.raises(UserError) as error:
        call(model, images)
    assert message in str(error.value), error.value


def test_what_cannot_be_loaded(workdir, tmp_path):
    with pytest.raises(UserError, match="no weights at"):
        mae_jax.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no average"):
        mae_jax.load(workdir, average=True)
