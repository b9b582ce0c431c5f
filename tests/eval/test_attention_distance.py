import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.eval.attention import mean_distance, pixel_distances, reach, summary


def mean_pair(rows, columns, step):
    """Mean distance of two patches, drawn with replacement: by hand over all pairs."""
    places = list(itertools.product(range(rows), range(columns)))
    return step * np.mean([np.hypot(a[0] - b[0], a[1] - b[1]) for a in places for b in places])


def test_distances_are_between_centres_in_pixels():
    between = pixel_distances((2, 3), (8, 24))  # patches of 4 x 8
    assert between[0, 1] == 8 and between[0, 3] == 4 and between[0, 4] == pytest.approx(np.hypot(4, 8))
    assert pixel_distances((2, 2, 2), (4, 4, 4))[0, 7] == pytest.approx(2 * 3**0.5)


@pytest.mark.parametrize("prefix", [0, 1])
def test_uniform_attention_is_the_mean_distance_and_attention_to_itself_is_none(prefix):
    between = pixel_distances((4, 4), (16, 16))
    t = 16 + prefix
    uniform = jnp.full((2, 3, t, t), 1 / t)
    np.testing.assert_allclose(mean_distance(uniform, between), mean_pair(4, 4, 4), rtol=1e-5)
    np.testing.assert_allclose(mean_distance(jnp.eye(t)[None, None], between), 0, atol=1e-6)


def test_every_query_looking_at_its_neighbour():
    """Shifted by one column round the edge: 3 of 4 queries look 4 pixels far, the fourth 12."""
    between = pixel_distances((1, 4), (4, 16))
    shifted = jnp.roll(jnp.eye(4), 1, axis=1)[None, None]
    np.testing.assert_allclose(mean_distance(shifted, between), (3 * 4 + 12) / 4)


def test_an_encoder_whose_queries_are_zero_attends_uniformly(tiny):
    """With the fused projection at zero all logits are equal: every layer and head gives the closed form."""
    method = dataclasses.replace(tiny, compute=dataclasses.replace(tiny.compute, scan=True, remat="full"))
    batch = {"image": jax.random.normal(jax.random.key(1), (2, 16, 16, 3))}
    params, stats = jax.jit(method.init)(jax.random.key(0), batch)
    flat = jax.tree_util.tree_map_with_path(lambda path, x: 0 * x if "qkv" in jax.tree_util.keystr(path) else x, params)
    rest = {"stats": stats, "ema": {}, "frozen": {}}
    distances = reach(method, lambda b: b)
    layers = distances(flat, rest, batch)
    assert len(layers) == 2 and layers[0].shape == (2, 4)
    np.testing.assert_allclose(layers, mean_pair(4, 4, 4), rtol=1e-5)
    assert not np.allclose(distances(params, rest, batch)[0], mean_pair(4, 4, 4), rtol=1e-3)


def test_summary_names_layers_and_heads():
    found = summary([np.array([1.0, 3.0]), np.array([5.0, 7.0])])
    assert found["attention_distance"] == 4 and found["attention_distance/1"] == 6
    assert found["attention_distance/0/1"] == 3 and summary([]) == {}
