"""Block-wise masks: exact counts, and the law of the authors' one-by-one generator."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.keys import Context
from mae_jax.masking import blocks as module
from mae_jax.masking.blocks import blocks
from mae_jax.masking.select import select


def draw(batch, grid, count, **options):
    mask = jax.jit(lambda: blocks(Context(jax.random.key(1)), batch, grid, count, **options))
    return np.asarray(mask())


def one_by_one(rng, grid, count, least, aspect):
    """The sheet's rule, a rectangle at a time."""
    hidden = np.zeros(grid, bool)
    while hidden.sum() < count:
        missing = count - hidden.sum()
        area, ratio = rng.uniform(0, 1) * (missing - least) + least, math.exp(rng.uniform(-1, 1) * math.log(aspect))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < grid[0] and w < grid[1]:
            top, left = rng.integers(0, grid[0] - h, endpoint=True), rng.integers(0, grid[1] - w, endpoint=True)
            more = hidden.copy()
            more[top : top + h, left : left + w] = True
            if 0 < more.sum() - hidden.sum() <= missing:
                hidden = more
    return hidden


@pytest.mark.parametrize("grid, count, least", [((14, 14), 98, 16), ((4, 6), 9, 2), ((7, 5), 20, 6)])
def test_exactly_so_many_are_hidden(grid, count, least):
    scores = draw(200, grid, count, least=least, aspect=0.3)
    assert ((scores >= 1).sum(axis=1) == count).all()
    mask = select(jnp.asarray(scores), math.prod(grid) - count, order="raster")
    np.testing.assert_array_equal(mask.hidden, scores >= 1)
    assert (np.diff(mask.keep_ids) > 0).all() and (np.diff(mask.drop_ids) > 0).all()
    assert len({row.tobytes() for row in np.asarray(mask.hidden)}) > 190  # each sample draws for itself


def test_what_rounds_leave_missing_is_filled_at_random(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 1)
    scores = draw(400, (14, 14), 98, least=16, aspect=0.3)
    covered = (scores >= 1).sum(axis=1)
    assert covered.min() < 98 and covered.max() <= 98
    hidden = np.asarray(select(jnp.asarray(scores), 98).hidden)
    assert (hidden.sum(axis=1) == 98).all() and hidden[scores >= 1].all()
    filled = hidden & (scores < 1)
    assert abs(filled[:, :98].sum() / filled.sum() - 0.5) < 0.05  # no preference for a place


def test_law_is_that_of_drawing_one_by_one():
    """How often each cell is hidden, and how often two neighbours both are, against the sequential rule."""
    rng, n = np.random.default_rng(0), 4000
    reference = np.stack([one_by_one(rng, (6, 8), 20, 4, 0.3) for _ in range(n)])
    ours = draw(n, (6, 8), 20, least=4, aspect=0.3).reshape(n, 6, 8) >= 1
    for what in (lambda m: m, lambda m: m[:, 1:] & m[:, :-1], lambda m: m[:, :, 1:] & m[:, :, :-1]):
        np.testing.assert_allclose(what(ours).mean(0), what(reference).mean(0), atol=4.5 * (0.5 / n) ** 0.5)
    # and it is not uniform masking: the middle is hidden more often, neighbours go together
    assert ours[:, 2:4, 3:5].mean() > ours[:, [0, -1]][:, :, [0, -1]].mean() + 0.2
