"""Devices as a (data, fsdp) mesh, even a single one; which parameter is split over what.

The batch is split over both axes. Parameters, gradients and optimizer state are split over fsdp.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mae_jax.core import tree
from mae_jax.core.errors import UserError

BATCH = ("data", "fsdp")

# First match wins. "split": along the longest axis that fsdp divides; "whole": a copy on every device.
RULES: tuple[tuple[str, str], ...] = (
    (r"(^|/)kernel$", "split"),
    (r"(^|/)(bias|q_bias|v_bias|scale|gamma|slope|temperature|mix|class_token|mask_token|pos_embed)$", "whole"),
    (r"(^|/)(mean|var)$", "whole"),  # statistics of batch norms
)


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `data` x `fsdp` devices; -1 for one of them takes what is left."""
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp}
    free = [name for name, n in sizes.items() if n == -1]
    fixed = math.prod(n for n in sizes.values() if n != -1)
    if len(free) > 1 or fixed < 1 or len(devices) % fixed or (not free and fixed != len(devices)):
        raise UserError(
            f"mesh.data={data} x mesh.fsdp={fsdp} does not fit {len(devices)} device(s): their product must be "
            f"the number of devices, and at most one may be -1 (whatever is left)."
        )
    for name in free:
        sizes[name] = len(devices) // fixed
    shape = (sizes["data"], sizes["fsdp"])
    return jax.make_mesh(shape, BATCH, devices=devices, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def state_shardings(state: Any, mesh: Mesh, rules: Sequence[tuple[str, str]] = RULES) -> Any:
    """The sharding of every array of a train state.

    Optimizer moments and averages repeat the parameters' paths at the end of theirs, so the same rules serve them.
    Scalars (step, counters) are whole. Every other array must be covered by a rule.
    """
    flat = tree.flatten(state)
    arrays = [path for path, leaf in flat.items() if leaf.ndim > 0]
    rule = tree.match(rules, arrays, "sharding rule")
    return tree.map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec(leaf.shape, rule.get(path, "whole"), mesh.shape["fsdp"])), state
    )


def frozen_shardings(shapes: Any, mesh: Mesh) -> Any:
    """`shapes` with shardings for networks that are only read: every matrix is split over fsdp, vectors are whole.

    So are noise "patterns", of which every sample takes a piece.
    """

    def one(path, leaf):
        rule = "split" if leaf.ndim > 1 and path.split("/")[-1] != "patterns" else "whole"
        sharding = NamedSharding(mesh, spec(leaf.shape, rule, mesh.shape["fsdp"]))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return tree.map_with_path(one, shapes)


def spec(shape: tuple[int, ...], rule: str, fsdp: int) -> PartitionSpec:
    """The partition of one array: its longest axis that `fsdp` divides, if the rule says to split."""
    axes = [i for i, n in enumerate(shape) if fsdp > 1 and n % fsdp == 0 and n >= fsdp]
    if rule == "whole" or not axes:
        return PartitionSpec()
    if rule != "split":
        raise UserError(f"unknown sharding rule '{rule}'; expected 'split' or 'whole'.")
    longest = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*("fsdp" if i == longest else None for i in range(len(shape))))


def shard(x: jax.Array, *, mesh: Mesh | None = None) -> jax.Array:
    """Hint at a block's border: this activation is split by batch. Nothing where no mesh is in use."""
    mesh = mesh or _current()
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


def each_alone(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """function(x), which treats every row of the batch by itself, run by each device on its own rows.

    For what XLA does not split by itself: `lax.top_k` of a split batch is an all-gather on CPU.
    """
    mesh = _current()
    if mesh is None or mesh.size == 1 or len(x) % mesh.size:
        return function(x)
    rows = PartitionSpec(BATCH)
    return jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows)(x)


_ACTIVE: list[Mesh] = []


class use_mesh:
    """Makes `shard` see a mesh while a step is traced."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh

    def __enter__(self) -> Mesh:
        _ACTIVE.append(self.mesh)
        return self.mesh

    def __exit__(self, *_: object) -> None:
        _ACTIVE.pop()


def _current() -> Mesh | None:
    return _ACTIVE[-1] if _ACTIVE else None
