"""Devices laid out as a (data, fsdp, tensor) mesh: over slices, and each process with one run of a batch's rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from mae_jax.core.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the axes over which a batch is split


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    devices: Sequence[Any] | None = None,
    *,
    tensor: int = 1,
    slices: int = 0,
    across: Literal["data", "fsdp"] = "data",
) -> Mesh:
    """A mesh of `data` x `fsdp` x `tensor` devices; -1 for one of them takes what is left.

    Args:
      slices: groups of devices with a fast network inside and a slow one (DCN) between; 0: as the devices say; 1: all
        are one, whatever they say.
      across: the axis that crosses from slice to slice; where it is too short for all of them, the other of data and
        fsdp crosses as well. What else there is stays inside one.

    Raises:
      UserError: sizes that do not fit the devices or the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [name for name, n in sizes.items() if n == -1]
    fixed = math.prod(n for n in sizes.values() if n != -1)
    wrong = any(n < 1 and n != -1 for n in sizes.values())
    if wrong or len(free) > 1 or len(devices) % fixed or (not free and fixed != len(devices)):
        raise UserError(
            f"mesh.data={data} x mesh.fsdp={fsdp} x mesh.tensor={tensor} does not fit {len(devices)} device(s): their "
            f"product must be the number of devices, and at most one may be -1 (whatever is left)."
        )
    for name in free:
        sizes[name] = len(devices) // fixed
    count, lengths = _slices(devices, slices), tuple(sizes[name] for name in AXES)
    crossing = _crossings(sizes, count, across)
    if not crossing:
        other = BATCH[BATCH.index(across) - 1]
        turned = [_laid(devices, lengths, outside) for outside in _crossings(sizes, count, other)]
        mend = f"mesh.across={other}" if any(map(_in_runs, turned)) else "mesh.slices=1 (devices process by process)"
        raise UserError(
            f"{count} slices do not divide mesh.{across}={sizes[across]}: the axis that crosses from slice to slice "
            f"(mesh.across={across}) must take them, alone or together with the other of data and fsdp, so that what "
            f"is left fits into one slice of {len(devices) // count} devices. Choose mesh.data, mesh.fsdp and "
            f"mesh.tensor so, or set {mend}."
        )
    layouts = (_laid(devices, lengths, outside) for outside in crossing)
    placed = next(filter(_in_runs, layouts), None)
    if placed is None:  # `share` says so where it matters
        placed = _laid(devices, lengths, crossing[0])
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


def slice_of(device: Any) -> int:
    """The number of a device's slice; 0 where devices know of none."""
    return getattr(device, "slice_index", None) or 0


def _slices(devices: Sequence[Any], asked: int) -> int:
    found = len({slice_of(device) for device in devices})
    if asked < 0 or (asked > 1 and found > 1 and asked != found) or (asked and len(devices) % asked):
        raise UserError(
            f"mesh.slices={asked}, but the {len(devices)} devices say that they lie in {found} slice(s): leave it at "
            f"0, which takes what there is, give a divisor of the number of devices where they say nothing, or 1, "
            f"which takes all for one slice."
        )
    return asked or found


def _crossings(sizes: Mapping[str, int], count: int, across: str) -> list[tuple[int, ...]]:
    """The slices along [data, fsdp, tensor]: all along `across`, or as many as it takes and the rest along the other.

    Of several GPU hosts each is a slice of its own, and data alone often has too few places for them.
    """
    found = []
    for n in range(count, 0, -1):
        parts = {name: n if name == across else count // n for name in BATCH}
        if count % n == 0 and (n > 1 or count == 1) and not any(sizes[name] % k for name, k in parts.items()):
            found.append(tuple(parts.get(name, 1) for name in AXES))
    return found


def _laid(devices: Sequence[Any], sizes: tuple[int, ...], outside: tuple[int, ...]) -> np.ndarray:
    """Devices [data, fsdp, tensor], in the network's order where that gives each process one run of rows."""
    inside = tuple(size // n for size, n in zip(sizes, outside))
    placed = _placed(devices, inside, outside)
    return placed if _in_runs(placed) else _by_process(devices, inside, outside)


def _placed(devices: Sequence[Any], inside: tuple[int, ...], outside: tuple[int, ...]) -> np.ndarray:
    """Devices [data, fsdp, tensor] in the order that suits the network between them."""
    found, count = len({slice_of(device) for device in devices}), math.prod(outside)
    try:
        if found == count == 1:
            return mesh_utils.create_device_mesh(inside, devices, allow_split_physical_axes=True)
        if found == count:
            return mesh_utils.create_hybrid_device_mesh(inside, outside, devices, allow_split_physical_axes=True)
    except NotImplementedError:  # a torus on which jax finds no place for these axes
        pass
    return _by_process(devices, inside, outside)


def _by_process(devices: Sequence[Any], inside: tuple[int, ...], outside: tuple[int, ...]) -> np.ndarray:
    """Devices [data, fsdp, tensor], slice by slice and in these process by process, as they come."""
    order = sorted(devices, key=lambda device: (slice_of(device), device.process_index))
    grid = np.asarray(order, dtype=object).reshape(*outside, *inside)
    pairs = [axis for k in range(len(AXES)) for axis in (k, len(AXES) + k)]
    return grid.transpose(pairs).reshape([n * m for n, m in zip(outside, inside)])


class Share(NamedTuple):
    """Which equal part of a batch's rows a process computes: number `part` of `parts`.

    Attributes:
      leads: whether it is the first of the processes that hold this part, and so writes what is written once.
    """

    part: int
    parts: int
    leads: bool = True


def share(mesh: Mesh) -> Share:
    """The rows of a batch that this process' devices hold.

    Processes among which tensor splits hold the same rows, and each reads them.

    Raises:
      UserError: processes whose rows overlap in part, or lie apart.
    """
    if not _in_runs(mesh.devices):
        raise UserError(
            f"mesh.data={mesh.shape['data']} x mesh.fsdp={mesh.shape['fsdp']} x mesh.tensor={mesh.shape['tensor']} "
            f"would deal {len({d.process_index for d in mesh.devices.flat})} processes rows of a batch that overlap or "
            f"lie apart: let mesh.tensor be a divisor or a multiple of the number of devices per process; or, where "
            f"it is one, set mesh.across to the other of data and fsdp, or mesh.slices=1 (devices process by process)."
        )
    rows, me = _rows(mesh.devices), jax.process_index()
    mine = rows[me]
    leads = me == min(process for process, own in rows.items() if own == mine)
    return Share(mine[0] // len(mine), mesh.devices.size // mesh.devices.shape[2] // len(mine), leads)


def _rows(devices: np.ndarray) -> dict[int, list[int]]:
    """{process: the parts of a batch that its devices hold}."""
    found: dict[int, list[int]] = {}
    for row, group in enumerate(devices.reshape(-1, devices.shape[2])):
        for process in {device.process_index for device in group}:
            found.setdefault(process, []).append(row)
    return found


def _in_runs(devices: np.ndarray) -> bool:
    """Whether every process holds an equal part of the batch's rows, in one piece."""
    rows = list(_rows(devices).values())
    n = len(rows[0])
    return all(len(own) == n and own[0] % n == 0 and own[-1] - own[0] == n - 1 for own in rows)
