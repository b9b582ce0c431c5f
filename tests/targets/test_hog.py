"""Histograms of gradients against what DMJD's code and scikit-image computed, and MaskFeat's rule in plain torch."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.interop.golden import read
from mae_jax.targets.hog import central, histograms, maskfeat, sobel

GOLDEN = Path(__file__).parent.parent / "golden"


def test_histograms_are_those_of_dmjd():
    """Central differences, angles from the column's axis, mean over the cell; golden [b, c, rows, columns, bins]."""
    golden = read(GOLDEN / "dmjd" / "hog.npz")
    image = jnp.asarray(golden.input("rgb8"), jnp.float32)
    ours = histograms(*central(image), cell=8) / 64
    np.testing.assert_allclose(ours.transpose(0, 3, 1, 2, 4), golden.outputs["hog"], rtol=1e-5, atol=1e-5)


def test_histograms_are_those_of_scikit_image():
    """Its block descriptor (2 x 2 cells, L2-Hys) of the channel with the largest gradient, from our histograms."""
    golden = read(GOLDEN / "cue" / "hog_target.npz")
    rows, columns = central(jnp.asarray(golden.input("image"), jnp.float32)[None])
    strongest = jnp.hypot(rows, columns).argmax(axis=-1, keepdims=True)
    rows, columns = (jnp.take_along_axis(g, strongest, axis=-1) for g in (rows, columns))
    cells = np.asarray(histograms(rows, columns, cell=16))[0, :, :, 0] / 16**2
    blocks = np.stack([[cells[i : i + 2, j : j + 2].ravel() for j in range(3)] for i in range(3)])
    unit = lambda x: x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-10)
    vector = unit(np.minimum(unit(blocks), 0.2)).ravel()
    np.testing.assert_allclose(vector, golden.outputs["hog_vector"], rtol=1e-4, atol=1e-5)


def test_maskfeat_against_plain_torch():
    """Sobel by convolution, votes by scatter, cells and tokens by unfolding, as the paper's code orders them."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional as F

    x = np.random.default_rng(0).standard_normal((2, 3, 32, 48)).astype(np.float32)
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    padded = F.pad(torch.from_numpy(x), (1, 1, 1, 1), mode="reflect")
    gx, gy = (F.conv2d(padded, k.expand(3, 1, 3, 3), groups=3) for k in (kernel, kernel.T))
    phase = torch.atan2(gx, gy) / math.pi * 9
    votes = torch.zeros(2, 3, 9, 32, 48)
    votes.scatter_add_(2, phase.floor().long()[:, :, None] % 9, torch.sqrt(gx**2 + gy**2)[:, :, None])
    cells = F.normalize(votes.unfold(3, 8, 8).unfold(4, 8, 8).sum((-1, -2)), dim=2).flatten(1, 2)
    expected = cells.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(2, 6, 108)
    ours = maskfeat(jnp.asarray(x).transpose(0, 2, 3, 1), patch=16)
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_orientation_of_gratings():
    """A grating along the columns has its gradient there: angle 0 from the column axis, a quarter turn from the row."""
    wave = jnp.broadcast_to(jnp.sin(jnp.arange(16.0))[None, None, :, None], (1, 16, 16, 1))
    for gradient in (central, sobel):
        rows, columns = gradient(wave)
        assert (rows == 0).all()
        assert jnp.argmax(histograms(rows, columns, 8).sum((0, 1, 2, 3))) == 0
        assert jnp.argmax(histograms(columns, rows, 8).sum((0, 1, 2, 3))) == 4
        turned = histograms(*(g.swapaxes(1, 2) for g in (columns, rows)), 8)
        np.testing.assert_allclose(turned.sum(), histograms(rows, columns, 8).sum(), rtol=1e-6)


def test_a_constant_changes_nothing_and_a_constant_image_has_no_gradient():
    image = jax.random.randint(jax.random.key(0), (1, 16, 16, 2), 0, 255).astype(jnp.float32)
    np.testing.assert_array_equal(maskfeat(image + 10.0, 16), maskfeat(image, 16))
    assert (maskfeat(jnp.full((1, 16, 16, 2), 3.0), 16) == 0).all()
    norms = jnp.linalg.norm(maskfeat(image, 16).reshape(2, 9, 4), axis=1)  # channel, bin, cell
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
