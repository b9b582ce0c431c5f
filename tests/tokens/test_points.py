"""Farthest points, nearest neighbours and interpolation against NumPy, ties among them; a split batch."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.mesh import batch_sharding, make_mesh, use_mesh
from mae_jax.masking import scores
from mae_jax.masking.select import hide_count, select
from mae_jax.tokens.points import CENTRAL, farthest, group, interpolation, nearest

RNG = np.random.default_rng(0)
CLOUDS = RNG.standard_normal((8, 60, 3)).astype(np.float32)
# Small whole numbers: many distances are equal, many points too, and some lie at the origin.
LATTICE = RNG.integers(-1, 2, (8, 60, 3)).astype(np.float32)


def farthest_numpy(points, count):
    """pointnet2_ops' kernel, one point at a time."""
    chosen, least = [0], np.full(len(points), np.inf)
    for _ in range(count - 1):
        best, at = -1.0, 0
        for i, p in enumerate(points):
            if (p**2).sum() <= CENTRAL:
                continue
            least[i] = min(least[i], ((p - points[chosen[-1]]) ** 2).sum())
            if least[i] > best:
                best, at = least[i], i
        chosen.append(at)
    return chosen


def test_farthest_points_and_neighbours_are_those_of_numpy():
    for clouds in (CLOUDS, LATTICE):
        ids = np.asarray(farthest(jnp.asarray(clouds), 30))
        for cloud, found in zip(clouds, ids):
            np.testing.assert_array_equal(found, farthest_numpy(cloud, 30))
        centres = np.take_along_axis(clouds, ids[:, :, None], axis=1)
        distance = ((centres[:, :, None] - clouds[:, None]) ** 2).sum(-1)
        near = nearest(jnp.asarray(clouds), jnp.asarray(centres), 7)
        np.testing.assert_array_equal(near, np.argsort(distance, axis=-1, kind="stable")[:, :, :7])


def test_a_cloud_around_the_origin_gives_point_0():
    assert not np.asarray(farthest(jnp.full((1, 5, 3), 1e-3), 4)).any()


def test_groups_hold_their_centre_and_do_not_move_with_the_cloud():
    groups, centres = group(jnp.asarray(CLOUDS), 9, 4)
    np.testing.assert_array_equal(groups[:, :, 0], np.zeros((8, 9, 3)))
    moved, other = group(jnp.asarray(CLOUDS) + 4.0, 9, 4)  # none of the points is near the origin before or after
    np.testing.assert_allclose(moved, groups, atol=2e-6)
    np.testing.assert_allclose(other, centres + 4.0, atol=2e-6)


def test_interpolation_is_pointnets():
    centres = CLOUDS[:, :9]
    weights = np.asarray(interpolation(jnp.asarray(CLOUDS), jnp.asarray(centres)))
    distance = ((CLOUDS[:, :, None] - centres[:, None]) ** 2).sum(-1)
    third = np.sort(distance, axis=-1)[:, :, 2:3]
    expected = np.where(distance <= third, 1 / (distance + 1e-8), 0)
    np.testing.assert_allclose(weights, expected / expected.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7)


def test_a_split_batch_costs_no_collective_and_changes_nothing():
    mesh = make_mesh()
    run = jax.jit(lambda x: group(x, 9, 4), in_shardings=batch_sharding(mesh), out_shardings=batch_sharding(mesh))
    x = jnp.asarray(CLOUDS)
    with use_mesh(mesh):
        text = run.lower(x).compile().as_text()
        found = run(x)
    assert not re.findall(r" (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text)
    jax.tree.map(np.testing.assert_array_equal, found, group(x, 9, 4))


def test_a_block_is_what_lies_nearest_to_a_centre():
    from mae_jax.core.keys import Context

    field = scores.around(Context(jax.random.key(0)), jnp.asarray(CLOUDS))
    hidden = np.asarray(select(field, 60 - hide_count(60, 0.6)).hidden)
    assert (hidden.sum(1) == 36).all()
    for cloud, mask in zip(CLOUDS, hidden):
        distance = ((cloud[:, None] - cloud[None]) ** 2).sum(-1)
        blocks = np.argsort(distance, axis=1)[:, :36]
        assert any(set(block) == set(np.flatnonzero(mask)) for block in blocks)
