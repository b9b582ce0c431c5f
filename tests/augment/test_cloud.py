"""Random changes of point clouds, what the modality makes of stored ones, and their pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.augment.cloud import Changes, change
from mae_jax.core.errors import UserError
from mae_jax.core.keys import Context
from mae_jax.methods.base import Leaf
from mae_jax.modalities.points import Points
from mae_jax.tokens.points import farthest
from mae_jax.tokens.scatter import draw_points

X = jax.random.normal(jax.random.key(0), (64, 30, 3))
CTX = lambda: Context(jax.random.key(1), 3)


def test_turns_keep_lengths_and_what_lies_along_the_axis():
    turned = change(X, CTX(), "points", Changes(rotate=0.5))
    np.testing.assert_allclose(turned[..., 1], X[..., 1])
    np.testing.assert_allclose(jnp.square(turned).sum(-1), jnp.square(X).sum(-1), rtol=1e-5)
    still = (np.asarray(turned) == np.asarray(X)).all((1, 2))
    assert 15 < still.sum() < 49  # 64 draws at 1/2
    tilted = change(X, CTX(), "points", Changes(tilt=0.06))
    np.testing.assert_allclose(jnp.square(tilted).sum(-1), jnp.square(X).sum(-1), rtol=1e-4)
    assert 0 < np.abs(tilted - X).max() < 3 * 3 * 0.06 * np.linalg.norm(X, axis=-1).max()


def test_scale_and_translation_are_those_of_the_sheet():
    """Three factors U(2/3, 3/2) and three offsets U(-0.2, 0.2) for each cloud."""
    moved = np.asarray(change(X, CTX(), "points", Changes(scale=(2 / 3, 3 / 2), translate=0.2)))
    x = np.asarray(X)
    factor = (moved[:, 1] - moved[:, 0]) / (x[:, 1] - x[:, 0])
    offset = moved[:, 0] - factor * x[:, 0]
    np.testing.assert_allclose(moved, x * factor[:, None] + offset[:, None], atol=1e-4)
    assert 0.66 < factor.min() < 0.72 and 1.42 < factor.max() < 1.51 and abs(factor.mean() - 13 / 12) < 0.06
    assert 0.17 < np.abs(offset).max() < 0.201


def test_noise_and_dropout_stay_within_their_bounds():
    noise = np.asarray(change(X, CTX(), "points", Changes(jitter=0.01)) - X)
    assert np.abs(noise).max() <= 0.05 + 1e-6 and abs(noise.std() - 0.01) < 5e-4
    dropped = np.asarray(change(X, CTX(), "points", Changes(dropout=0.8)))
    first = (dropped == np.asarray(X)[:, :1]).all(-1)
    np.testing.assert_array_equal(dropped[~first], np.asarray(X)[~first])
    assert 0.3 < first.mean() < 0.5 and first.mean(1).max() < 0.95  # U(0, 0.8) of each


def test_what_is_off_draws_nothing_and_evaluation_changes_nothing():
    leaf, batch = Leaf((30, 3)), {"points": X}
    assert change(X, CTX(), "points", Changes()) is X
    assert Points().device("points", leaf, batch, None) is X


def test_stored_clouds_are_thinned_on_the_device():
    leaf = Leaf((8, 3))
    plain = Points(stored=30, candidates=12, scale=(1.0, 1.0), translate=0.0)
    plain.check("points", leaf)
    assert plain.travels("points", leaf)["points"].shape == (30, 3)
    test = plain.device("points", leaf, {"points": X}, None)
    np.testing.assert_array_equal(test, jnp.take_along_axis(X, farthest(X, 8)[:, :, None], axis=1))
    train = np.asarray(plain.device("points", leaf, {"points": X}, CTX()))
    among = np.asarray(jnp.take_along_axis(X, farthest(X, 12)[:, :, None], axis=1))
    places = [[int(np.flatnonzero((cloud == p).all(1))[0]) for p in points] for cloud, points in zip(among, train)]
    assert train.shape == (64, 8, 3) and len(set(places[0])) == 8 and all(p == places[0] for p in places)
    with pytest.raises(UserError, match="augment.points_candidates=4"):
        Points(stored=30, candidates=4).check("points", leaf)
    with pytest.raises(UserError, match="augment.points_stored=4"):
        Points(stored=4).check("points", leaf)


def test_pictures_show_where_points_are():
    corner = jnp.array([[[0.0, 1, 0], [0, -1, 0], [0, 1, 0]]])
    drawn = np.asarray(draw_points(corner, jnp.array([[[1.0, 0, 0], [0, 0, 1], [1.0, 0, 0]]]), 40))
    assert drawn.shape == (1, 40, 40, 3) and drawn.min() >= 0 and drawn.max() == 1
    ink = (drawn[0] < 0.9).any(-1)
    red, blue = ink & (drawn[0, ..., 0] > drawn[0, ..., 2]), ink & (drawn[0, ..., 0] < drawn[0, ..., 2])
    assert np.nonzero(red)[0].max() < 20 < np.nonzero(blue)[0].min()  # up is up
    same = draw_points(corner + 5.0, jnp.array([[[1.0, 0, 0], [0, 0, 1], [1.0, 0, 0]]]), 40)
    np.testing.assert_allclose(same, drawn, atol=1e-6)
