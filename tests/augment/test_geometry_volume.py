"""Turns and reflections against numpy, volumes' intensities, random erasing: formulas and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.augment import erase, geometry, volume
from mae_jax.core.keys import Context


def context(seed=0):
    return Context(jax.random.key(seed))


@pytest.mark.parametrize("shape", [(4, 5, 5, 3), (4, 3, 3, 2, 1)])
def test_turns_and_reflections_are_numpys(shape):
    x = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    turned = np.asarray(geometry.turn(jnp.asarray(x), (1, 2), jnp.arange(4)))
    reversed_ = np.asarray(geometry.reverse(jnp.asarray(x), 2, jnp.array([True, False, False, True])))
    for i in range(4):
        np.testing.assert_array_equal(turned[i], np.rot90(x[i], i, (0, 1)))
        np.testing.assert_array_equal(reversed_[i], x[i][:, ::-1] if i in (0, 3) else x[i])


def test_whole_numbers_are_uniform():
    counts = np.bincount(geometry.upto(context().uniform("u", (4000,)), 4))
    assert len(counts) == 4 and np.abs(counts - 1000).max() < 150
    assert int(geometry.upto(jnp.array([1 - 2**-24]), 3)[0]) == 2


def test_volumes_follow_their_draws():
    """The same numbers, given, by numpy."""
    b = 5
    rng = np.random.default_rng(1)
    x = rng.random((b, 4, 4, 6, 2), np.float32)
    given = {"volume_flip": rng.random((b, 3)), "volume_turn": rng.random((b, 2)), "volume_scale": rng.random((b, 2)),
             "volume_shift": rng.random((b, 2))}  # fmt: skip
    names = {f"augment/{name}/volume": jnp.asarray(u, jnp.float32) for name, u in given.items()}
    changes = volume.Changes(0.5, 0.6, (0.1, 0.7), (0.2, 0.7))
    found = volume.change(jnp.asarray(x), Context(jax.random.key(0), given=names), "volume", changes)
    for i in range(b):
        y = np.flip(x[i], [axis for axis in range(3) if given["volume_flip"][i, axis] < 0.5])
        u, v = given["volume_turn"][i]
        y = np.rot90(y, 1 + int(3 * v), (0, 1)) if u < 0.6 else y
        (u, v), (s, t) = given["volume_scale"][i], given["volume_shift"][i]
        y = y * (1 + 0.1 * (2 * v - 1)) if u < 0.7 else y
        y = y + 0.2 * (2 * t - 1) if s < 0.7 else y
        np.testing.assert_allclose(found[i], y, rtol=1e-5)


def test_law_of_the_volumes_intensities():
    n = 4000
    ones = jnp.ones((n, 1, 1, 1, 1))
    found = np.asarray(volume.change(ones, context(2), "volume", volume.Changes(scale=(0.1, 0.3)))).ravel()
    hit = found != 1
    assert abs(hit.mean() - 0.3) < 0.04 and np.abs(found - 1).max() <= 0.1 + 1e-6
    assert abs(found[hit].mean() - 1) < 0.01 and abs(found[hit].std() - 0.1 / np.sqrt(3)) < 0.005


def test_erased_boxes_have_the_published_law():
    n, h, w = 2000, 24, 30
    x = jnp.full((n, h, w, 2), 7.0)
    found = np.asarray(jax.jit(lambda x: erase.erase(x, context(3), "image", 0.25))(x))
    changed = (found != 7).all(-1)
    np.testing.assert_array_equal(changed, (found != 7).any(-1))
    hit = changed.any((1, 2))
    assert abs(hit.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / n)
    rows, columns = changed[hit].any(2), changed[hit].any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    np.testing.assert_array_equal(changed[hit].sum((1, 2)), heights * widths)  # one full box
    for edge, length in ((rows, heights), (columns, widths)):  # without holes
        np.testing.assert_array_equal(edge.shape[1] - edge[:, ::-1].argmax(1) - edge.argmax(1), length)
    share, aspect = heights * widths / (h * w), heights / widths
    assert share.min() > 0.012 and share.max() < 0.36 and abs(share.mean() - 0.17) < 0.02
    assert 0.2 < aspect.min() < 0.5 and 2 < aspect.max() < 5
    assert heights.max() < h and widths.max() < w
    assert rows.argmax(1).min() == 0 and (rows.argmax(1) + heights).max() == h  # placed up to the edges
    noise = found[changed]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert len(np.unique(noise)) > 0.98 * noise.size  # of each pixel and channel


def test_an_image_too_small_for_a_box_stays():
    x = jnp.ones((6, 1, 40, 1))
    np.testing.assert_array_equal(jax.jit(lambda x: erase.erase(x, context(), "image", 1.0))(x), x)
