"""Whether all copies of the weights are still the same: on every device of every process, bit for bit.

Copies that should be equal drift apart where a device computes wrongly or a program differs between hosts; nothing in
a data-parallel run notices, since each copy is only added to itself. A sum over all devices would hide it as well, so
each device hashes what lies on it, and what is compared are these hashes.
"""

import collections
import hashlib
import socket
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mae_jax.core.hashing import device_hash
from mae_jax.core.tree import flatten

_HOST = 64  # bytes of a host's name


class Parity:
    """Compares the copies of one tree.

    Args:
      shapes: its arrays with their NamedShardings.
    """

    def __init__(self, shapes: Any, mesh: Mesh):
        used = {axis for leaf in jax.tree.leaves(shapes) for part in leaf.sharding.spec for axis in _axes(part)}
        split = [i for i, name in enumerate(mesh.axis_names) if name in used]
        # Devices at the same place along the axes that split something hold the same shards.
        self.group = {device.id: tuple(place[i] for i in split) for place, device in np.ndenumerate(mesh.devices)}

    @property
    def copies(self) -> bool:
        """Whether anything lies on more than one device."""
        return len(set(self.group.values())) < len(self.group)

    def __call__(self, arrays: Any) -> str:
        """ "" where all copies agree, else which differ, in words. Every process must call it at the same step."""
        return told(self.group, gathered(local_hashes(arrays)))


def local_hashes(arrays: Any) -> dict[int, bytes]:
    """{number of a device of this process: 8 bytes} of what lies on it. No collective."""
    found: dict[int, list[Any]] = collections.defaultdict(list)
    for leaf in flatten(arrays).values():
        for shard in leaf.addressable_shards:
            found[shard.device.id].append(device_hash(shard.data))
    hashes = jax.device_get(dict(found))
    return {device: hashlib.sha256(np.stack(pairs).tobytes()).digest()[:8] for device, pairs in hashes.items()}


def gathered(local: dict[int, bytes]) -> dict[int, tuple[bytes, str]]:
    """{number of a device: (hash, who has it)} of all processes."""
    host = socket.gethostname().encode()[:_HOST].ljust(_HOST, b"\0")
    rows = [np.frombuffer(device.to_bytes(8, "little") + digest + host, np.uint32) for device, digest in local.items()]
    everyone = np.stack(rows)[None]
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        everyone = np.asarray(multihost_utils.process_allgather(np.stack(rows)))
    found = {}
    for process, devices in enumerate(everyone):
        for row in devices:
            raw = np.ascontiguousarray(row).tobytes()
            name = raw[16:].rstrip(b"\0").decode(errors="replace")
            found[int.from_bytes(raw[:8], "little")] = raw[8:16], f"process {process} (host {name})"
    return found


def told(group: dict[int, Any], hashes: dict[int, tuple[bytes, str]]) -> str:
    """Which copies differ from most others, in words; "" where none does."""
    faults = []
    for place in sorted(set(group.values())):
        devices = [device for device in group if group[device] == place]
        count = collections.Counter(hashes[device][0] for device in devices)
        if len(count) == 1:
            continue
        (most, n), *_ = count.most_common()
        if 2 * n > len(devices):
            odd = [d for d in devices if hashes[d][0] != most]
            faults.append(f"{_listed(odd, hashes)} differ(s) from the other {n} copies")
        else:
            faults.append(f"{_listed(devices, hashes)} differ, and no majority says which of them is right")
    return "; ".join(faults)


def _listed(devices: list[int], hashes: dict[int, tuple[bytes, str]]) -> str:
    who: dict[str, list[int]] = {}
    for device in devices:
        who.setdefault(hashes[device][1], []).append(device)
    return ", ".join(f"device {', '.join(map(str, found))} of {name}" for name, found in who.items())


def _axes(part: Any) -> tuple[str, ...]:
    return () if part is None else (part,) if isinstance(part, str) else tuple(part)
