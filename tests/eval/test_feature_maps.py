"""Patch features as colours, and the embedding plot."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from tiny_methods import make

from mae_jax.core.errors import UserError
from mae_jax.eval.embedding import embedding_plot
from mae_jax.eval.feature_maps import colour, feature_sheet, patch_features
from mae_jax.eval.features import Labelled
from mae_jax.eval.pictures import CELL, LINE


def tokens(b=3, n=16, d=10):
    """Two clusters far apart; the object is patches 5, 6, 9, 10 of every image."""
    x = np.random.default_rng(0).normal(size=(b, n, d)).astype(np.float32)
    x[:, [5, 6, 9, 10], 0] += 20
    return x


def test_order_and_range_are_those_of_the_components():
    x = tokens()
    found = colour(x)
    theirs = PCA(3).fit_transform(x.reshape(-1, 10)).reshape(3, 16, 3)
    for i in range(3):
        ranks = np.corrcoef(
            found.values[..., i].ravel(), np.clip(theirs[..., i], *np.quantile(theirs[..., i], (0.01, 0.99))).ravel()
        )
        assert abs(ranks[0, 1]) > 1 - 1e-6  # up to sign, shift and scale the same numbers
        assert found.values[..., i].min() == 0 and found.values[..., i].max() == 1
    np.testing.assert_allclose(found.share, PCA(3).fit(x.reshape(-1, 10)).explained_variance_ratio_, rtol=1e-5)


def test_foreground_leaves_the_object_and_takes_its_own_components():
    x = tokens()
    object_ = np.zeros(16, bool)
    object_[[5, 6, 9, 10]] = True
    above, below = colour(x, 0.5), colour(x, -0.5)
    assert (above.front == object_).all() and (below.front == ~object_).all()
    assert (above.values[:, ~object_] == 0).all()
    np.testing.assert_allclose(
        above.share, PCA(3).fit(x[:, object_].reshape(-1, 10)).explained_variance_ratio_, rtol=1e-5
    )
    with pytest.raises(UserError, match="leaves 0 of 48"):
        colour(x, 1.0)


def test_within_takes_out_what_differs_between_images():
    x = tokens()
    shifted = x + 100 * np.random.default_rng(1).normal(size=(3, 1, 10)).astype(np.float32)
    assert not np.allclose(colour(x).values, colour(shifted).values, atol=0.1)
    np.testing.assert_allclose(colour(x, within=True).values, colour(shifted, within=True).values, atol=1e-4)


@pytest.mark.parametrize(
    "name,block,grid,d",
    [("mae", None, (4, 4), 16), ("mae", 0, (4, 4), 16), ("spark", 1, (8, 12), 8), ("spark", 0, (4, 6), 12)],
)
def test_any_grid_and_any_level(name, block, grid, d):
    method, params, rest, batch = make(name)
    found, where, _ = patch_features(method, lambda b: b, params, rest, batch, block)
    assert where == grid and found.shape == (4, grid[0] * grid[1], d)
    features = method.encode(params, rest, batch)
    expected = features.normed if block is None else (features.levels or features.hidden)[block]
    expected = np.asarray(expected).reshape(4, -1, d)[:, -found.shape[1] :]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    images = np.zeros((4, 16, 24, 3), np.uint8)
    sheet = feature_sheet(colour(found), where, images)
    assert sheet.shape[1] == 5 * (6 * 24 + LINE) - LINE  # 24 pixels are enlarged six times, to at least CELL
    assert CELL <= 6 * 24
    with pytest.raises(UserError, match="no --block 9"):
        patch_features(method, lambda b: b, params, rest, batch, 9)


def test_embedding_has_scikit_learns_coordinates():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 25, 300)
    data = Labelled(rng.normal(size=(300, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32), labels)
    picture, points = embedding_plot(data, [f"class {i}" for i in range(25)])
    theirs = PCA(2).fit_transform(data.features.astype(np.float64))
    np.testing.assert_allclose(np.abs(points), np.abs(theirs), atol=1e-6)
    assert picture.shape == (750, 900, 3)
    with pytest.raises(UserError, match="at most 1"):
        embedding_plot(Labelled(data.features[:2], labels[:2]))
