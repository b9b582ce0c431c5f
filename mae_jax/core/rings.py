"""The rings of a torus that the devices along fsdp form: sums and gathers over them, one axis of the torus at a time.

XLA for TPUs makes an all-reduce (twice the bytes) of a reduce-scatter over all devices of a square or three-dimensional
torus at once, and of an all-gather over 64 and more; over one axis of it at a time, neither. Seen by compiling both for
v5e, v6e and v5p slices (libtpu 0.0.52; docs/parallelism.md has the table).
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from mae_jax.core.devices import slice_of

JOINT_GATHER = 32  # devices up to which XLA keeps an all-gather over the whole torus


class Rings(NamedTuple):
    """How the devices along fsdp lie on a torus.

    Attributes:
      sizes: of the torus' axes, longer than one, that these devices span; one number for all of them at once.
      groups: per axis, the rings along it: lists of positions along fsdp; None: one ring of all.
      digits: a position along fsdp is a number of these digits (most significant first), each of which is a part of
        one coordinate;
      to_torus: and this order of them makes it a number whose digits are the coordinates.
    """

    sizes: tuple[int, ...]
    groups: tuple[list[list[int]] | None, ...]
    digits: tuple[int, ...]
    to_torus: tuple[int, ...]

    @property
    def devices(self) -> int:
        return math.prod(self.sizes)


class Choice(NamedTuple):
    """By which rings to sum and to gather."""

    scatter: Rings
    gather: Rings


@functools.lru_cache(maxsize=16)
def rings(mesh: Mesh) -> Choice:
    """What to do along a mesh's fsdp axis. Devices on no torus (CPUs; GPUs, whose coordinates are
    others) are taken all at once."""
    lines = np.moveaxis(mesh.devices, mesh.axis_names.index("fsdp"), -1).reshape(-1, mesh.shape["fsdp"])
    n = mesh.shape["fsdp"]
    at_once = Rings((n,), (None,), (n,), (0,))
    found = _on_torus(lines[0])
    if found is None or any(_on_torus(line) != found for line in lines[1:]):
        return Choice(at_once, at_once)
    small, *more = sorted(found.sizes)
    if not more or (len(more) == 1 and more[0] in (2, 2 * small)):  # a ring, 2 x 2, or twice as long as wide
        return Choice(at_once, at_once)
    return Choice(found, found if n > JOINT_GATHER else at_once)


def _on_torus(line: Iterable[Any]) -> Rings | None:
    """How devices lie; None where they do not fill a box whose sides are runs of their numbers' digits."""
    line = list(line)
    if any(getattr(device, "coords", None) is None or device.platform != "tpu" for device in line):
        return None
    # The slice is the last: a sum goes round each slice first, and only its parts cross the slow network between them.
    at = np.array([(*d.coords, getattr(d, "core_on_chip", 0) or 0, slice_of(d)) for d in line])
    places = [np.unique(column, return_inverse=True) for column in at.T]
    sizes = tuple(len(values) for values, _ in places if len(values) > 1)
    if math.prod(sizes) != len(line) or not sizes:
        return None
    index = np.full(sizes, -1)
    index[tuple(where.reshape(-1) for values, where in places if len(values) > 1)] = range(len(line))
    groups = tuple(np.moveaxis(index, k, -1).reshape(-1, n).tolist() for k, n in enumerate(sizes))
    fine = [p for n in sizes for p in _primes(n)]
    index = index.reshape(fine)
    units = [index[tuple(int(i == k) for i in range(len(fine)))] for k in range(len(fine))]
    order = sorted(range(len(fine)), key=lambda k: -units[k])
    digits = tuple(fine[k] for k in order)
    to_torus = tuple(order.index(k) for k in range(len(fine)))
    if not np.array_equal(np.arange(len(line)).reshape(digits).transpose(to_torus), index):
        return None
    return Rings(sizes, groups, digits, to_torus)


def _primes(n: int) -> list[int]:
    """The prime factors of n, in order."""
    for p in range(2, n + 1):
        if n % p == 0:
            return [p, *_primes(n // p)]
    return []
