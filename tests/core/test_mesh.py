"""The mesh and what is split over it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mae_jax.core import devices, mesh, rings
from mae_jax.core.errors import UserError


def shape(m):
    return tuple(m.shape[axis] for axis in mesh.AXES)


def test_mesh_shapes():
    assert tuple(mesh.make_mesh().shape) == mesh.AXES and shape(mesh.make_mesh()) == (8, 1, 1)
    assert shape(mesh.make_mesh(2, -1)) == (2, 4, 1)
    assert shape(mesh.make_mesh(tensor=2, fsdp=2)) == (2, 2, 2)
    assert shape(mesh.make_mesh(1, 1, tensor=-1)) == (1, 1, 8)
    assert shape(mesh.make_mesh(1, 1, jax.devices()[:1])) == (1, 1, 1)


class Chip:
    """A device of a slice and a process, as the layout sees it."""

    platform, device_kind = "tpu", "TPU v4"

    def __init__(self, number, per_slice=8, per_process=4):
        self.id, self.slice_index, self.process_index = number, number // per_slice, number // per_process
        self.coords, self.core_on_chip = (number % 2, number // 2 % 2, number % per_slice // 4), 0

    def __repr__(self):
        return f"chip {self.id}"


@pytest.mark.parametrize("across, sizes", [("data", (4, 2, 2)), ("fsdp", (1, 8, 2))])
def test_only_one_axis_crosses_from_slice_to_slice(across, sizes):
    chips = [Chip(k) for k in range(16)]
    found = mesh.make_mesh(sizes[0], sizes[1], chips, tensor=sizes[2], across=across).devices
    assert found.shape == sizes and {d.id for d in found.flat} == set(range(16))
    crossing = mesh.AXES.index(across)
    for line in np.moveaxis(found, crossing, 0).reshape(sizes[crossing], -1).T:
        assert [d.slice_index for d in line] == [0] * (len(line) // 2) + [1] * (len(line) // 2)
    for half in np.split(found, 2, axis=crossing):
        assert len({d.slice_index for d in half.flat}) == 1
    with pytest.raises(UserError, match="2 slices do not divide mesh.data=1"):
        mesh.make_mesh(1, 8, chips, tensor=2)


class Gpu:
    """One of the GPUs of hosts of eight: XLA gives each host a slice_index of its own, and newer ones coordinates."""

    platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

    def __init__(self, number):
        self.id, self.slice_index, self.process_index = number, number // 8, number // 8
        self.coords = (number // 8, number % 8 // 4, number % 4)


GPUS = [Gpu(k) for k in range(32)]


@pytest.mark.parametrize(
    "sizes, across",
    [
        ((4, 8, 1), "data"), ((8, 4, 1), "data"), ((32, 1, 1), "data"), ((2, 16, 1), "data"), ((2, 16, 1), "fsdp"),
        ((2, 8, 2), "data"), ((2, 8, 2), "fsdp"), ((1, 32, 1), "fsdp"),
    ],
)  # fmt: skip
def test_natural_meshes_of_gpu_hosts(sizes, across):
    """Each host holds one run of rows, and hosts follow one another."""
    found = mesh.make_mesh(*sizes[:2], GPUS, tensor=sizes[2], across=across)
    assert shape(found) == sizes and [d.process_index for d in found.devices.flat] == sorted([0, 1, 2, 3] * 8)
    assert devices.share(found).parts == 4
    assert rings.rings(found).scatter.sizes == (sizes[1],)  # no torus


def test_what_slices_leave_to_set_is_what_works():
    """data 1: nothing is left of four hosts for it; with 3 of data, only to take them as they come."""
    with pytest.raises(UserError, match="4 slices do not divide mesh.data=1.*set mesh.across=fsdp"):
        mesh.make_mesh(1, 32, GPUS)
    with pytest.raises(UserError, match="lie apart.*set mesh.across to the other"):
        devices.share(mesh.make_mesh(4, 8, GPUS, across="fsdp"))
    with pytest.raises(UserError, match=r"2 slices do not divide mesh.data=3.*set mesh.slices=1"):
        mesh.make_mesh(3, 4, [*GPUS[:6], *GPUS[8:14]])
    found = mesh.make_mesh(3, 4, [*GPUS[:6], *GPUS[8:14]], slices=1)
    assert devices.share(found).parts == 2 and [d.id for d in found.devices.flat] == [*range(6), *range(8, 14)]
    with pytest.raises(UserError, match="mesh.slices=2, but the 32 devices say that they lie in 4"):
        mesh.make_mesh(4, 8, GPUS, slices=2)


def test_slices_can_be_made_of_devices_that_know_of_none():
    found = mesh.make_mesh(4, 2, slices=2).devices
    assert [d.id for d in found[:2].flat] == [0, 1, 2, 3]
    found = mesh.make_mesh(2, 4, slices=2, across="fsdp").devices
    assert sorted(d.id for d in found[:, :2].flat) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "sizes, rows", [((4, 2, 2), 2), ((1, 8, 2), 2), ((8, 1, 2), 2), ((2, 1, 8), 1), ((4, 4, 1), 4)]
)
def test_a_process_holds_one_run_of_rows(sizes, rows, monkeypatch):
    """Also where tensor is wider than a process: two then hold the same rows."""
    chips = [Chip(k, per_slice=16) for k in range(16)]
    for number, chip in enumerate(chips):
        chip.coords = (number % 4, number // 4, 0)  # a 4 x 4 torus whose hosts have 2 x 2 chips
        chip.process_index = chip.coords[0] // 2 + 2 * (chip.coords[1] // 2)
    found = mesh.make_mesh(sizes[0], sizes[1], chips, tensor=sizes[2])
    share = devices.share(found)
    assert share == (0, sizes[0] * sizes[1] // rows, True)
    every = []
    for process in range(4):
        monkeypatch.setattr(devices.jax, "process_index", lambda process=process: process)
        every.append(devices.share(found))
    assert sorted(s.part for s in every if s.leads) == list(range(share.parts))  # one of each part
    assert len({s.part for s in every}) == share.parts


@pytest.mark.parametrize("data, fsdp", [(3, 1), (-1, -1), (4, 4), (0, 8), (-1, 3)])
def test_a_mesh_that_does_not_fit_is_refused(data, fsdp):
    with pytest.raises(UserError, match="does not fit 8 device"):
        mesh.make_mesh(data, fsdp)


@pytest.mark.parametrize(
    "shape, rule, fsdp, tensor, expected",
    [
        ((12, 48), "split", 4, 1, P("fsdp")),
        ((48, 12), "split", 4, 1, P("fsdp")),
        ((7, 12), "split", 4, 1, P(None, "fsdp")),
        ((3, 3, 8, 16), "split", 4, 1, P(None, None, "fsdp")),
        ((7, 9), "split", 4, 1, P()),
        ((12, 48), "split", 1, 4, P()),
        ((12, 48), "whole", 4, 2, P()),
        ((12, 48), "column", 4, 2, P("fsdp", "tensor")),
        ((48, 12), "row", 4, 2, P("tensor", "fsdp")),
        ((48,), "vector", 4, 2, P("tensor")),
        ((12, 9), "column", 4, 2, P("fsdp")),
    ],
)
def test_which_axis_is_split(shape, rule, fsdp, tensor, expected):
    assert mesh.spec(shape, rule, fsdp, tensor) == expected


def test_the_table_as_text_folds_layers_that_lie_alike():
    m = mesh.make_mesh(2, 4)
    shapes = {"blocks": {str(k): {"kernel": jnp.zeros((8, 16)), "bias": jnp.zeros(16)} for k in range(3)}}
    text = mesh.format_table(mesh.table(mesh.with_shardings(shapes, mesh.state_shardings(shapes, m)), m))
    head, bias, kernel, total = text.splitlines()
    assert kernel.split() == ["blocks/0-2/kernel", "8x16", "float32", "fsdp,", "-", "3", "x", "384"]
    assert bias.split() == ["blocks/0-2/bias", "16", "float32", "whole", "3", "x", "192"]
    assert total.split() == ["all", "6", "x", "576"] and "bytes per device" in head


def test_state_follows_the_parameters_and_nothing_is_uncovered():
    m = mesh.make_mesh(2, 4)
    state = {"step": jnp.zeros(()), "params": {"a": {"kernel": jnp.zeros((8, 16)), "bias": jnp.zeros(16)}}}
    state["opt"] = ({"mu": state["params"]},)
    found = mesh.state_shardings(state, m)
    assert found["params"]["a"]["kernel"].spec == found["opt"][0]["mu"]["a"]["kernel"].spec == P("fsdp")
    assert found["params"]["a"]["bias"].spec == found["step"].spec == P()
    with pytest.raises(UserError, match="no sharding rule covers 1 parameter.*params/strange"):
        mesh.state_shardings({"params": {"strange": jnp.zeros(3)}}, m)
    with pytest.raises(UserError, match="no sharding rule covers 1"):
        mesh.frozen_shardings({"strange": jnp.zeros((4, 4))}, m)
