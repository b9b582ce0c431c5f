"""Learned positions of weights for a method of another grid, or in the place of a fixed table."""

import dataclasses

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.methods.colormae import ColorMAE
from mae_jax.methods.mae import MAE
from mae_jax.tokens.positions import interpolate, sincos, with_prefix
from mae_jax.weights.store import Weights, fit_positions, learned_positions

SIZES = dict(image_size=8, patch=2, channels=1, dim=8, depth=1, heads=2, decoder_dim=8, decoder_depth=1,
             decoder_heads=2)  # fmt: skip
TABLE = np.random.default_rng(0).normal(size=(1, 17, 8)).astype(np.float32)


def weights(name, table=None, **fields):
    encoder = {"patch_embed": {"bias": np.zeros(8)}} | ({} if table is None else {"pos_embed": table})
    config = {"method": {"name": name} | SIZES | fields, "augment": {}}
    return Weights(config, {"encoder": encoder}, info={"kind": "encoder"})


@pytest.mark.parametrize("method, first", [(MAE, "column"), (ColorMAE, "row")])
def test_a_fixed_table_is_the_start_of_a_learned_one(method, first):
    """Of the order that the method's encoder has; at the weights' own grid, and resampled from it."""
    own = with_prefix(sincos(8, (4, 4), first=first), 1)
    for size, grid in ((8, (4, 4)), (12, (6, 6))):
        new = method(**SIZES | {"image_size": size}, positions="learned")
        found = fit_positions(weights(method.name), new).params["encoder"]["pos_embed"]
        np.testing.assert_allclose(found[0], interpolate(own, (4, 4), grid, prefix=1), atol=1e-6)
    fixed = weights(method.name)
    assert fit_positions(fixed, method(**SIZES)) is fixed


def test_a_learned_table_is_resampled_once_and_otherwise_left():
    old = MAE(**SIZES, positions="learned")
    same, larger = weights("mae", TABLE, positions="learned"), dataclasses.replace(old, image_size=(8, 12))
    assert fit_positions(same, old) is same
    found = fit_positions(same, larger).params["encoder"]["pos_embed"]
    np.testing.assert_array_equal(found, learned_positions(TABLE, old, larger, 1, 8))
    np.testing.assert_array_equal(found, interpolate(TABLE, (4, 4), (4, 6), prefix=1))
    assert learned_positions(TABLE[:, 1:], old, larger, 1, 8) is None
    with pytest.raises(UserError, match="set method.positions='learned'"):
        fit_positions(same, MAE(**SIZES))
