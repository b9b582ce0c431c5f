"""Attention maps: against a computation by hand, and where they are drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import colormaps
from tiny_methods import TINY, make

from mae_jax import methods
from mae_jax.core.errors import UserError
from mae_jax.eval.attention_maps import COLOURS, STRENGTH, attended, attention_sheet, looks, overlay
from mae_jax.eval.pictures import CELL, LINE
from mae_jax.eval.planes import drawn_input, enlarge, plane
from mae_jax.tokens.grid import patchify
from mae_jax.tokens.positions import sincos


def found(name, **changes):
    method, params, rest, batch = make(name)
    return attended(dataclasses.replace(method, **changes), lambda b: b, params, rest, batch)


def norm(x, p, eps=1e-6):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def test_first_block_by_hand():
    """Patches, positions, class token, norm, q and k, softmax: in numpy, float64."""
    method, params, rest, batch = make("mae")
    e = jax.tree.map(lambda x: np.asarray(x, np.float64), params["encoder"])
    x = np.asarray(patchify(batch["image"], method.patch), np.float64)
    x = x @ e["patch_embed"]["kernel"] + e["patch_embed"]["bias"] + sincos(method.dim, method.grid)[None]
    x = np.concatenate([np.broadcast_to(e["class_token"], (len(x), 1, method.dim)), x], axis=1)
    block = e["blocks"]["0"]
    qkv = norm(x, block["norm1"]) @ block["attn"]["qkv"]["kernel"] + block["attn"]["qkv"]["bias"]
    b, t, _ = x.shape
    q, k, _ = qkv.reshape(b, t, 3, method.heads, -1).transpose(2, 0, 3, 1, 4)
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    seen = found("mae")
    assert (len(seen.maps), seen.prefix, seen.grid) == (2, 1, (4, 4))
    np.testing.assert_allclose(seen.maps[0], weights, atol=2e-6)
    for layer in seen.maps:
        np.testing.assert_allclose(layer.sum(-1), 1.0, atol=1e-5)


def test_a_scanned_rematerialised_stack_gives_the_same():
    method = make("mae")[0]
    compute = dataclasses.replace(method.compute, scan=True, remat="full")
    for ours, theirs in zip(found("mae").maps, found("mae", compute=compute).maps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_queries():
    weights = np.random.default_rng(0).dirichlet(np.ones(7), (2, 3, 7)).astype(np.float32)  # 1 + 2 x 3 tokens
    np.testing.assert_array_equal(looks(weights, 1, "class", (2, 3)), weights[:, :, 0, 1:])
    np.testing.assert_array_equal(looks(weights, 1, (1, 2), (2, 3)), weights[:, :, 6, 1:])
    expected = sum(weights[:, :, i, 1:] for i in range(1, 7)) / 6
    np.testing.assert_allclose(looks(weights, 1, "mean", (2, 3)), expected, atol=1e-6)
    for query, text in (((2, 0), "no patch"), ("middle", "expected")):
        with pytest.raises(UserError, match=text):
            looks(weights, 1, query, (2, 3))
    with pytest.raises(UserError, match="no class token"):
        looks(weights, 0, "class", (7, 1))


def test_overlay_mixes_picture_and_colour():
    image = np.full((4, 4, 3), 100, np.uint8)
    drawn = overlay(image, np.array([[0.0, 0.1], [0.2, 0.4]], np.float32))
    for patch, level in (((0, 0), 0.0), ((0, 1), 0.25), ((1, 0), 0.5), ((1, 1), 1.0)):
        colour = 255 * np.asarray(colormaps[COLOURS](level)[:3])
        expected = (1 - STRENGTH) * 100 + STRENGTH * colour
        cell = drawn[2 * patch[0] : 2 * patch[0] + 2, 2 * patch[1] : 2 * patch[1] + 2]
        np.testing.assert_allclose(cell, np.broadcast_to(expected, (2, 2, 3)), atol=1)


@pytest.mark.parametrize(
    "more,rows,columns",
    [
        ({}, 4, 1 + 1 + 2),  # the mean and two heads of the last block
        ({"heads": [1], "mean": False}, 4, 2),
        ({"blocks": (0, 1), "heads": []}, 4, 3),  # a column per block
        ({"blocks": (0, -1), "query": (3, 0)}, 8, 4),  # a row per image and block
    ],
)
def test_sheets_have_a_cell_for_all_that_is_asked(more, rows, columns):
    seen = found("mae")
    images, caption = drawn_input(make("mae")[0], seen.batch, ((), ()))
    sheet = attention_sheet(seen, images, caption, **more)
    height = CELL // 2  # 8 x 16 pixels
    assert sheet.shape[0] - (rows * (height + LINE) - LINE) in range(10, 50)
    labels = 0 if rows == 4 else 60
    assert 0 <= sheet.shape[1] - (columns * (CELL + LINE) - LINE) <= labels


def test_what_is_not_there_is_named():
    seen = found("mae")
    images, _ = drawn_input(make("mae")[0], seen.batch, ((), ()))
    for more, text in (({"blocks": (2,)}, "no block 2: .* 2"), ({"heads": (5,)}, "no head 5")):
        with pytest.raises(UserError, match=text):
            attention_sheet(seen, images, **more)
    with pytest.raises(UserError, match="'spark' has no self-attention"):
        found("spark")


def test_a_volume_is_drawn_by_its_middle_slice():
    """Patches of that slice, and the voxels of it, come from the same place."""
    seen = found("hiendmae")
    assert seen.grid == (2, 2, 3)
    images, caption = drawn_input(make("hiendmae")[0], seen.batch, ((), ()))
    assert images.shape == (4, 8, 4, 3) and "middle slice" in caption
    volume = np.zeros((1, 8, 4, 12, 1), np.float32)
    volume[:, 4:, :2, 4:8] = 1.0  # patch (1, 0, 1) of 4 x 2 x 4 voxels
    tokens = patchify(jnp.asarray(volume), (4, 2, 4)).max(-1)
    laid = plane(np.asarray(tokens), (2, 2, 3))
    np.testing.assert_array_equal(enlarge(laid[0], (8, 4)), volume[0, :, :, 6, 0])
    assert attention_sheet(seen, images, caption).shape[0] > 4 * 100


def test_nodes_have_no_place_in_an_image():
    with pytest.raises(UserError, match="'graphmae' reads nodes"):
        drawn_input(methods.get("graphmae")(**TINY["graphmae"]), {}, ((), ()))
    with pytest.raises(UserError, match="no place in an image"):
        plane(np.zeros((1, 5)), (5,))
