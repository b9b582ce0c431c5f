"""Position tables against the authors' numbers, torch's interpolation and closed forms."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.tokens.positions import bicubic_matrix, interpolate, sincos, with_prefix

GOLDEN = Path(__file__).parent.parent / "golden" / "mae" / "pos_embed.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return json.loads(str(file["meta"]))["config"], {name: file[name] for name in file.files if name != "meta"}


def test_sincos_is_the_authors(golden):
    config, arrays = golden
    table = with_prefix(sincos(config["embed_dim"], (config["grid"],) * 2), 1)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, arrays["out/sincos"], atol=1e-6)


def test_first_half_is_the_column():
    table = sincos(8, (3, 5)).reshape(3, 5, 8)
    np.testing.assert_array_equal(table[0, :, :4], table[2, :, :4])  # the row does not move the first half
    np.testing.assert_array_equal(table[:, 0, 4:], table[:, 4, 4:])
    frequency = 10000 ** (-1 / 2)
    expected = [math.sin(4), math.sin(4 * frequency), math.cos(4), math.cos(4 * frequency)]
    np.testing.assert_allclose(table[1, 4, :4], expected, atol=1e-7)


def test_row_first_swaps_the_halves():
    column, row = sincos(16, (3, 5)), sincos(16, (3, 5), first="row")
    np.testing.assert_array_equal(row, np.concatenate([column[:, 8:], column[:, :8]], axis=1))


def test_other_ranks():
    np.testing.assert_allclose(sincos(2, (4,)), [[math.sin(p), math.cos(p)] for p in range(4)], atol=1e-7)
    table = sincos(12, (2, 3, 4)).reshape(2, 3, 4, 12)
    np.testing.assert_allclose(table[1, 2, 3, [0, 4, 8]], np.sin([3, 2, 1]), atol=1e-7)


@pytest.mark.parametrize("dim,grid", [(6, (2, 2)), (0, (2, 2)), (3, (4,)), (8, (2, 2, 2))])
def test_width_that_cannot_be_split(dim, grid):
    with pytest.raises(UserError, match=f"multiple of {2 * len(grid)}"):
        sincos(dim, grid)


@pytest.mark.parametrize("name,key", [("interp_up", "up"), ("interp_down", "down")])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_interpolation_is_torchs(golden, name, key, kind):
    config, arrays = golden
    old, new = (config["grid"],) * 2, (config[key],) * 2
    result = interpolate(kind(arrays["in/pos_embed"]), old, new, prefix=1)
    assert isinstance(result, type(kind(arrays["in/pos_embed"]))) and result.dtype == np.float32
    np.testing.assert_allclose(np.asarray(result), arrays[f"out/{name}"], atol=1e-5)


@pytest.mark.parametrize("old,new", [((5, 7), (8, 3)), ((1, 4), (3, 9)), ((14, 14), (16, 12)), ((2, 2), (1, 1))])
def test_interpolation_of_uneven_grids_is_torchs(old, new):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((math.prod(old), 6)).astype(np.float32)
    image = torch.from_numpy(table.reshape(1, *old, 6)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(image, size=new, mode="bicubic", align_corners=False)
    expected = expected.permute(0, 2, 3, 1).reshape(-1, 6).numpy()
    np.testing.assert_allclose(interpolate(table, old, new), expected, atol=1e-5)


def test_interpolation_invariants():
    np.testing.assert_allclose(bicubic_matrix(7, 10).sum(axis=1), 1, atol=1e-12)  # constants stay constants
    np.testing.assert_array_equal(bicubic_matrix(6, 6), np.eye(6))
    table = np.arange(24, dtype=np.float32).reshape(12, 2)
    assert interpolate(table, (3, 4), (3, 4)) is table
    with pytest.raises(ValueError, match="12 rows"):
        interpolate(table, (3, 4), (6, 8), prefix=1)
    with pytest.raises(ValueError, match="same rank"):
        interpolate(table, (3, 4), (12,))


def test_interpolation_has_the_transposed_gradient():
    table = jnp.asarray(np.random.default_rng(1).standard_normal((1 + 6, 3)), jnp.float32)
    weights = np.random.default_rng(2).standard_normal((1 + 20, 3)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(interpolate(t, (2, 3), (4, 5), prefix=1) * weights)))(table)
    matrix = np.kron(bicubic_matrix(2, 4), bicubic_matrix(3, 5))
    np.testing.assert_allclose(np.asarray(gradient[0]), weights[0], atol=1e-6)
    np.testing.assert_allclose(np.asarray(gradient[1:]), matrix.T @ weights[1:], atol=1e-5)
