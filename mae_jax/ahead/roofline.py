"""How long a step takes at least: computing, moving bytes in memory, moving bytes between chips.

Each is its amount over the chip's peak (core/chips.py); the longest of the three is the step, if everything overlaps.
Real steps are longer; what a roofline tells is which of the three to work on.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from mae_jax.ahead.collectives import Collective
from mae_jax.ahead.topology import Topology
from mae_jax.core.chips import Chip


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step.

    Attributes:
      network: by mesh axes; collectives over different axes are taken one after the other.
    """

    compute: float
    memory: float
    network: Mapping[str, float]

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds of each of the three."""
        return {"compute": self.compute, "memory": self.memory, "network": sum(self.network.values())}

    @property
    def seconds(self) -> float:
        """The longest of the three."""
        return max(self.bounds.values())

    @property
    def bound(self) -> str:
        """Which of the three it is."""
        return max(self.bounds, key=lambda name: self.bounds[name])


def roofline(flops: float, moved: float, network: Mapping[str, float], chip: Chip) -> Roofline:
    """The roofline of a step.

    Args:
      flops: of one device, multiply-add = 2, what is computed again included.
      moved: bytes between one device's cores and its memory.
      network: seconds by mesh axes (`network_seconds`).
    """
    return Roofline(flops / chip.peak_flops, moved / chip.hbm_bandwidth, dict(network))


def network_seconds(found: Iterable[Collective], mesh: Any, topology: Topology) -> dict[str, float]:
    """{mesh axes: seconds} of the collectives by ring algorithms, over the links that each group can use.

    `mesh` is the jax Mesh of the topology's devices. Within a slice bytes go over ICI. A group that spans slices
    reduces within each first, and sends its share of that over the data centre's network.
    """
    assert topology.chip is not None
    seconds: dict[str, float] = {}
    for c in found:
        if c.group < 2:
            continue
        members = group_of(c, mesh, topology)
        seconds[c.axis] = seconds.get(c.axis, 0.0) + _seconds(c, members, topology, topology.chip)
    return seconds


def _seconds(c: Collective, members: tuple[int, ...], topology: Topology, chip: Chip) -> float:
    slices = topology.slices(members)
    inside = max(1, c.group // slices)
    ici = 0.0
    if inside > 1:
        ici = dataclasses.replace(c, members=members[:inside]).wire / (chip.ici_bandwidth * topology.links(members))
    if slices == 1:
        return ici
    dcn = dataclasses.replace(c, members=members[:slices], bytes=c.bytes // inside).wire
    return ici + (dcn / chip.dcn_bandwidth if chip.dcn_bandwidth else float("inf"))


def group_of(c: Collective, mesh: Any, topology: Topology) -> tuple[int, ...]:
    """The first group of a collective, as positions in the topology's devices."""
    place = {d: k for k, d in enumerate(topology.devices)}
    return tuple(place[mesh.devices.flat[k]] for k in c.members)
