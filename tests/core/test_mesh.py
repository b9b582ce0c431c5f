"""The mesh and what is split over it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from mae_jax.core import mesh
from mae_jax.core.errors import UserError


def test_mesh_shapes():
    assert dict(mesh.make_mesh().shape) == {"data": 8, "fsdp": 1}
    assert dict(mesh.make_mesh(2, -1).shape) == {"data": 2, "fsdp": 4}
    assert dict(mesh.make_mesh(1, 1, jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1}


@pytest.mark.parametrize("data, fsdp", [(3, 1), (-1, -1), (4, 4), (0, 8), (-1, 3)])
def test_a_mesh_that_does_not_fit_is_refused(data, fsdp):
    with pytest.raises(UserError, match="does not fit 8 device"):
        mesh.make_mesh(data, fsdp)


@pytest.mark.parametrize(
    "shape, rule, fsdp, expected",
    [
        ((12, 48), "split", 4, P(None, "fsdp")),
        ((48, 12), "split", 4, P("fsdp")),
        ((7, 12), "split", 4, P(None, "fsdp")),
        ((7, 9), "split", 4, P()),
        ((12, 48), "split", 1, P()),
        ((12, 48), "whole", 4, P()),
        ((16, 16), "split", 8, P("fsdp")),
    ],
)
def test_the_longest_axis_that_divides_is_split(shape, rule, fsdp, expected):
    found = mesh.spec(shape, rule, fsdp)
    assert tuple(found) + (None,) * (2 - len(found)) == tuple(expected) + (None,) * (2 - len(expected))


def test_state_follows_the_parameters_and_nothing_is_uncovered():
    m = mesh.make_mesh(2, 4)
    state = {"step": jnp.zeros(()), "params": {"a": {"kernel": jnp.zeros((8, 16)), "bias": jnp.zeros(16)}}}
    state["opt"] = ({"mu": state["params"]},)
    found = mesh.state_shardings(state, m)
    assert found["params"]["a"]["kernel"].spec == found["opt"][0]["mu"]["a"]["kernel"].spec == P(None, "fsdp")
    assert found["params"]["a"]["bias"].spec == found["step"].spec == P()
    with pytest.raises(UserError, match="no sharding rule covers 1 parameter.*params/strange"):
        mesh.state_shardings({"params": {"strange": jnp.zeros(3)}}, m)
