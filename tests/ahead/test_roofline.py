"""A roofline by hand: amounts over peaks, and which of the three rules."""

import dataclasses
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mae_jax.ahead.collectives import Collective, from_text
from mae_jax.ahead.hlo import Program
from mae_jax.ahead.roofline import network_seconds, roofline
from mae_jax.ahead.topology import Topology
from mae_jax.ahead.traffic import hbm_bytes
from mae_jax.core.chips import Chip, chip
from mae_jax.testing.flops import dot_flops

PROGRAM = """\
ENTRY %main (x: f32[2000000]) -> f32[8000000] {
  %x = f32[2000000]{0} parameter(0)
  ROOT %g = f32[8000000]{0} all-gather(%x), channel_id=1, replica_groups=GROUPS, dimensions={0}
}
"""
CHIP = Chip("made up", ("made up",), "tpu", 1e12, 16e9, 1e9, 1e6, 1e5)


class Device:
    """A chip at a place of a torus."""

    device_kind = "made up"

    def __init__(self, x: int, y: int, slice_index: int = 0):
        self.coords, self.slice_index = (x, y, 0), slice_index


def slice_of(rows: int, columns: int, slices: int = 1) -> Topology:
    devices = tuple(Device(x, y, s) for s in range(slices) for y in range(rows) for x in range(columns))
    return Topology("made up", devices, CHIP, CHIP.hbm_bytes, ahead=True)


def mesh_of(topology: Topology, data: int, fsdp: int) -> SimpleNamespace:
    """What a roofline reads of a mesh."""
    grid = np.array(topology.devices, dtype=object).reshape(data, fsdp)
    return SimpleNamespace(devices=grid, shape={"data": data, "fsdp": fsdp})


def test_the_longest_of_three_is_the_step():
    line = roofline(2e12, 1e9, {"data": 0.25, "fsdp": 0.5}, CHIP)
    assert line.bounds == {"compute": 2.0, "memory": 1.0, "network": 0.75}
    assert (line.bound, line.seconds) == ("compute", 2.0)
    assert roofline(2e12, 5e9, {}, CHIP).bound == "memory"
    assert roofline(0, 0, {"data": 3.0}, CHIP).bound == "network"


def test_v5e_by_hand():
    """ViT-L/16 at 128 per chip: 128 x 124.5 GFLOP over 197 TFLOP/s."""
    v5e = chip("v5e")
    assert math.isclose(roofline(128 * 124.5e9, 0, {}, v5e).compute, 0.08089, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("kind", "axis", "members", "seconds"),
    [
        ("all-reduce", "data+fsdp", range(8), 2 * 7 / 8 * 8e6 / 1e6),  # the whole torus: all links
        ("all-gather", "fsdp", range(4), 3 / 4 * 8e6 / 0.5e6),  # along one of its two axes: half of them
        ("reduce-scatter", "fsdp", range(4), 3 / 4 * 8e6 / 0.5e6),
        ("collective-permute", "fsdp", range(4), 8e6 / 0.5e6),
        ("all-reduce", "data", (0, 4), 2 * 1 / 2 * 8e6 / 0.5e6),
    ],
)
def test_network_by_rings(kind, axis, members, seconds):
    topology = slice_of(2, 4)
    found = [Collective(kind, 3, 8_000_000, axis, "", "f32", tuple(members))]
    assert network_seconds(found, mesh_of(topology, 2, 4), topology) == {axis: pytest.approx(seconds)}


def test_network_between_slices():
    """Two slices of 4: within each a ring over ICI (one axis of two is used), then a quarter of it over DCN."""
    topology = slice_of(1, 4, slices=2)
    found = [Collective("all-reduce", 1, 8_000_000, "data+fsdp", "", "f32", tuple(range(8)))]
    seconds = 2 * 3 / 4 * 8e6 / 1e6 + 2 * 1 / 2 * 2e6 / 1e5
    assert network_seconds(found, mesh_of(topology, 2, 4), topology) == {"data+fsdp": pytest.approx(seconds)}


def test_a_ring_is_that_of_the_program_and_not_the_first_devices_of_its_axis():
    """fsdp over a torus of 4 x 4 whose hosts of 2 x 2 come first, ring by ring: each ring has half of the links."""
    topology = slice_of(4, 4)
    hosts = np.array(topology.devices, object).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(1, 16)
    mesh = SimpleNamespace(devices=hosts, shape={"data": 1, "fsdp": 16})
    row = tuple(k for k, d in enumerate(hosts.flat) if d.coords[1] == 0)
    assert row != (0, 1, 2, 3)  # these are a host
    groups = "},{".join(",".join(str(k) for k, d in enumerate(hosts.flat) if d.coords[1] == y) for y in range(4))
    text = PROGRAM.replace("GROUPS", f"{{{{{groups}}}}}")
    (found,) = from_text(text, mesh.shape)
    assert (found.axis, found.members, found.bytes) == ("fsdp", row, 4 * 8_000_000)
    assert network_seconds([found], mesh, topology) == {"fsdp": pytest.approx(3 / 4 * 32e6 / 0.5e6)}


def test_a_ring_between_slices_goes_over_their_network():
    """The last of the rings of fsdp over two slices of 4: one device of each, nothing over ICI."""
    topology = slice_of(1, 4, slices=2)
    found = [Collective("all-gather", 1, 8_000_000, "fsdp", "", "f32", (0, 4)),
             Collective("collective-permute", 1, 8_000_000, "data", "", "f32", (0, 4))]  # fmt: skip
    assert network_seconds(found, mesh_of(topology, 1, 8), topology) == {
        "fsdp": pytest.approx(1 / 2 * 8e6 / 1e5), "data": pytest.approx(8e6 / 1e5),
    }  # fmt: skip


def test_gpus_lie_on_no_torus():
    """Whatever coordinates XLA gives them."""
    tpus = slice_of(2, 4)
    gpus = dataclasses.replace(tpus, chip=dataclasses.replace(CHIP, family="gpu"))
    assert (tpus.links((0, 1)), gpus.links((0, 1))) == (0.5, 1.0)


def test_groups_of_one_cost_nothing():
    topology = slice_of(2, 4)
    found = [Collective("all-reduce", 1, 10, "", "", "f32", (0,))]
    assert network_seconds(found, mesh_of(topology, 2, 4), topology) == {}


def test_flops_count_loops_and_devices():
    """x [8, 16] @ w [16, 4] is 2 * 8 * 16 * 4, five times in a loop; apart on 8 devices it is the same in all."""
    w = jnp.ones((16, 4))
    once = 2 * 8 * 16 * 4

    def loop(x):
        return jax.lax.scan(lambda c, _: (c + (x @ w).sum(), None), 0.0, None, length=5)[0]

    assert dot_flops(jax.make_jaxpr(loop)(jnp.ones((8, 16))).jaxpr) == 5 * once
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    apart = jax.shard_map(lambda x: x @ w, mesh=mesh, in_specs=spec, out_specs=spec)
    assert dot_flops(jax.make_jaxpr(apart)(jnp.ones((8, 16))).jaxpr) == once


HLO = """\
%cond (s: (s32[], f32[10,256], f32[256])) -> pred[] {
  %s = (s32[], f32[10,256]{1,0}, f32[256]{0}) parameter(0)
  %c = s32[] constant(10)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%fused (p0: f32[10,256], p1: s32[], p2: f32[256]) -> f32[256] {
  %p0 = f32[10,256]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[256]{0} parameter(2)
  %zero = s32[] constant(0)
  %cut = f32[1,256]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,256}
  %flat = f32[256]{0} bitcast(%cut)
  ROOT %sum = f32[256]{0} add(%flat, %p2)
}
%body (t: (s32[], f32[10,256], f32[256])) -> (s32[], f32[10,256], f32[256]) {
  %t = (s32[], f32[10,256]{1,0}, f32[256]{0}) parameter(0)
  %j = s32[] get-tuple-element(%t), index=0
  %rows = f32[10,256]{1,0} get-tuple-element(%t), index=1
  %acc = f32[256]{0} get-tuple-element(%t), index=2
  %new = f32[256]{0} fusion(%rows, %j, %acc), kind=kLoop, calls=%fused
  %one = s32[] constant(1)
  %next = s32[] add(%j, %one)
  ROOT %out = (s32[], f32[10,256]{1,0}, f32[256]{0}) tuple(%next, %rows, %new)
}
ENTRY %main (x: f32[10,256], y: f32[256]) -> f32[256] {
  %x = f32[10,256]{1,0} parameter(0)
  %y = f32[256]{0} parameter(1)
  %start = s32[] constant(0)
  %near = f32[256]{0:T(256)S(1)} copy(%y)
  %state = (s32[], f32[10,256]{1,0}, f32[256]{0}) tuple(%start, %x, %y)
  %loop = (s32[], f32[10,256]{1,0}, f32[256]{0}) while(%state), condition=%cond, body=%body
  ROOT %r = f32[256]{0} get-tuple-element(%loop), index=2
}
"""


def test_memory_traffic_of_a_loop():
    """Ten turns: a row (not the whole array), the sum and the counter in; the sum out; one copy into VMEM."""
    fusion = 1024 + 4 + 1024 + 1024
    counter = 4 + 4 + 4
    assert hbm_bytes(Program(HLO)) == 10 * (fusion + counter) + 1024
