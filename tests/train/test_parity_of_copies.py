"""Copies of the weights that differ are named by device and host, whatever splits them."""

import socket

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mae_jax.core.mesh import make_mesh
from mae_jax.train.parity import Parity, told


def arrays(mesh, broken=()):
    """One array split over fsdp and one whole, on 8 devices; a bit is flipped in the copies of `broken`."""
    found = {}
    for name, shape, spec in (("kernel", (8, 4), P("fsdp")), ("bias", (4,), P())):
        whole = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        sharding = NamedSharding(mesh, spec)
        pieces = []
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            piece = whole[index].copy()
            if name == "bias" and device.id in broken:
                piece.view(np.uint32)[1] ^= 1
            pieces.append(jax.device_put(piece, device))
        found[name] = jax.make_array_from_single_device_arrays(shape, sharding, pieces)
    return found


@pytest.mark.parametrize("fsdp", [1, 2])
def test_a_flipped_bit_in_one_copy_is_named(fsdp):
    mesh = make_mesh(-1, fsdp)
    good, bad = arrays(mesh), arrays(mesh, broken=(5,))
    parity = Parity(good, mesh)
    assert parity.copies and parity(good) == ""
    said = parity(bad)
    assert said.startswith(f"device 5 of process 0 (host {socket.gethostname()[:64]}) differ(s) from the other")
    assert float(jax.numpy.sum(bad["bias"])) == pytest.approx(float(jax.numpy.sum(good["bias"])))  # a sum says nothing


def test_where_every_device_has_its_own_shard_there_is_nothing_to_compare():
    mesh = make_mesh(1, 8)
    assert not Parity({"kernel": jax.ShapeDtypeStruct((8, 4), np.float32, sharding=NamedSharding(mesh, P("fsdp")))},
                      mesh).copies  # fmt: skip


def test_two_that_differ_accuse_each_other():
    said = told({0: (), 1: ()}, {0: (b"a", "process 0 (host a)"), 1: (b"b", "process 1 (host b)")})
    assert "process 0 (host a)" in said and "process 1 (host b)" in said and "no majority" in said
    assert told({0: (0,), 1: (1,)}, {0: (b"a", "p"), 1: (b"b", "p")}) == ""  # other shards
