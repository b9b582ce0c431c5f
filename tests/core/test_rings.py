"""Sums and gathers ring by ring on a torus: the numbers of one collective over all devices, each where it belongs."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mae_jax.core import gather, mesh, rings


class Chip:
    """A device of a torus, as far as a mesh looks."""

    platform, device_kind, process_index, core_on_chip, slice_index = "tpu", "TPU v5e", 0, 0, 0

    def __init__(self, coords, slice_index=0):
        self.coords, self.slice_index, self.id = coords, slice_index, hash((coords, slice_index))


def torus(axes, order, data=1):
    """A mesh of the chips of a torus: the halves of its coordinates, dealt in this order."""
    chips = np.empty(axes, object)
    for place in np.ndindex(*axes):
        chips[place] = Chip(place)
    halves = chips.reshape([2] * len(order)).transpose(order)
    return Mesh(halves.reshape(data, -1, 1), mesh.AXES)


def two_slices(*axes):
    """The devices along fsdp of two slices, the one after the other."""
    return [Chip(place, number) for number in (0, 1) for place in np.ndindex(*axes)]


def exact(by, spec):
    """Sums and gathers by these rings over the eight devices here are those of one collective."""
    use, axis = mesh.make_mesh(1, 8), gather.fsdp_axis(spec)
    shape = [3, 5, 7][: len(spec) + 1]
    shape[axis] = 16
    run = lambda f, x, a, b: jax.jit(
        jax.shard_map(f, mesh=use, in_specs=a, out_specs=b, check_vma=False)
    )(jax.device_put(x, NamedSharding(use, a)))  # fmt: skip
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, shape).astype("float32")
    np.testing.assert_array_equal(run(lambda x: gather._gather_by(by, x, axis), x, spec, P()), x)
    # Every device has another summand; integers, so that their sum does not depend on its order.
    own = rng.integers(-9, 9, (8, *shape)).astype("float32")
    total = run(lambda g: gather._scatter_by(by, g[0], axis), own, P("fsdp"), spec)
    np.testing.assert_array_equal(total, own.sum(0))


# Of 2 x 2 x 2: by rows; hosts of 2 x 2 first; backwards.
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("axes", [(2, 2, 2), (2, 4)])
@pytest.mark.parametrize("spec", [P("fsdp"), P(None, "fsdp"), P(None, "fsdp", None)])
def test_ring_by_ring_is_all_at_once(order, axes, spec):
    by = rings._on_torus(torus(axes, order).devices.reshape(-1))
    assert by.sizes == axes and by.devices == 8
    exact(by, spec)


@pytest.mark.parametrize("spec", [P("fsdp"), P(None, "fsdp")])
def test_the_slow_network_between_slices_carries_parts_only(spec):
    """A sum crosses from slice to slice last, a gather first: with what is left of, or there before, each slice's."""
    by = rings._on_torus(two_slices(2, 2))
    assert by.sizes == (2, 2, 2) and by.groups[-1] == [[k, 4 + k] for k in range(4)]
    exact(by, spec)
    found = rings.rings(Mesh(np.array(two_slices(4, 4), object).reshape(1, -1, 1), mesh.AXES)).scatter
    assert found.sizes == (4, 4, 2) and found.groups[-1] == [[k, 16 + k] for k in range(16)]


@pytest.mark.parametrize(
    "axes, order, data, scatters, gathers",
    [
        ((8, 8), (0, 1, 3, 4, 2, 5), 1, (8, 8), (8, 8)),  # hosts of 2 x 2
        ((8, 8), (0, 1, 2, 3, 4, 5), 8, None, None),  # one ring for each
        ((8, 8), (0, 3, 1, 2, 4, 5), 4, (4, 4), None),  # a quarter for each
        ((4, 4), (0, 2, 1, 3), 1, (4, 4), None),
        ((4, 8), (0, 1, 2, 3, 4), 1, None, None),
        ((2, 2, 4), (0, 1, 2, 3), 1, (2, 2, 4), None),
        ((4, 4, 4), (5, 4, 3, 2, 1, 0), 1, (4, 4, 4), (4, 4, 4)),
    ],
)
def test_rings_are_used_where_xla_would_all_reduce(axes, order, data, scatters, gathers):
    found = rings.rings(torus(axes, order, data))
    at_once = (int(np.prod(axes)) // data,)
    assert [by.sizes for by in found] == [scatters or at_once, gathers or at_once]


def test_what_fills_no_box_is_taken_at_once():
    chips = [Chip((0, 0)), Chip((0, 1)), Chip((1, 0)), Chip((2, 2))]
    assert rings._on_torus(chips) is None
    snake = [Chip(place) for place in ((0, 0), (0, 1), (1, 1), (1, 0))]  # its digits are no coordinates
    assert rings._on_torus(snake) is None
    assert rings.rings(mesh.make_mesh(1, 8)).scatter == ((8,), (None,), (8,), (0,))
