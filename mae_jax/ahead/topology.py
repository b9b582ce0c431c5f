"""Devices to compile for: a TPU slice that need not be there, or this machine's own (`local`).

Slices come from libtpu, the TPU's compiler (`pip install 'mae_jax[compile]'`); no TPU is needed.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from mae_jax.core.chips import Chip, chip
from mae_jax.core.errors import UserError

# Axes of the torus, and the chips of one host: what a bare name ("v4") means. A v3 chip is two devices.
FAMILIES: dict[str, tuple[int, ...]] = {
    "v3": (2, 2), "v4": (2, 2, 1), "v5e": (2, 4), "v5p": (2, 2, 1), "v6e": (2, 4),
}  # fmt: skip
EXAMPLES = "v5e:16x16, v4:4x4x4, v5p:2x2x4, v6e:8x8, v3:4x4, or local for this machine's own devices"
# libtpu looks for a TPU machine's settings and complains of their absence; another process may hold the library.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "true", "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_STDERR_LOG_LEVEL": "3", "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: as asked for.
      chip: what each device can do; None for what is not in the table of chips.
      memory: bytes of each device; None where it is not known.
      ahead: whether the devices are not there, so that programs for them can only be compiled.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None
    memory: float | None
    ahead: bool

    @property
    def kind(self) -> str:
        """As jax names the device."""
        return self.devices[0].device_kind

    def links(self, members: tuple[int, ...]) -> float:
        """Share of a device's ICI links that a collective among these devices (by position) can use.

        A group along one axis of a torus of two uses half of the links. 1 where devices lie on no torus.
        """
        if self.chip is None or self.chip.family != "tpu":  # GPUs have coordinates too, of another kind
            return 1.0
        coords = np.array([getattr(d, "coords", None) or (0,) for d in self.devices])
        long = int((coords.max(0) > coords.min(0)).sum())
        group = coords[list(members)]
        used = int((group.max(0) > group.min(0)).sum())
        return used / long if used and long else 1.0

    def slices(self, members: tuple[int, ...]) -> int:
        """Over how many slices these devices are spread."""
        return len({getattr(self.devices[k], "slice_index", None) or 0 for k in members})


def topology(name: str, slices: int = 1) -> Topology:
    """The devices that `--topology` names.

    Args:
      name: "v5e:16x16", or a family alone for one host of it, or "local".
      slices: how many such slices, joined by the data centre's network.

    Raises:
      UserError: a name that libtpu does not know, or libtpu is not installed.
    """
    if name == "local":
        return local()
    family, colon, shape = name.partition(":")
    if family not in FAMILIES or (colon and not re.fullmatch(r"\d+(x\d+)*", shape)):
        raise UserError(f"--topology {name}: there is no such slice. Expected a name as {EXAMPLES}.")
    dims = tuple(map(int, shape.split("x"))) if colon else FAMILIES[family]
    if len(dims) != len(FAMILIES[family]) or not math.prod(dims):
        axes = len(FAMILIES[family])
        example = f"{family}:{'x'.join(map(str, FAMILIES[family]))}"
        raise UserError(f"--topology {name}: the torus of {family} has {axes} axes, as in {example}.")
    check_libtpu(name)
    devices = tuple(tpu_devices(family, dims, slices))
    name = f"{slices} x {name}" if slices > 1 else name
    return Topology(name, devices, found := chip(family), found.hbm_bytes if found else None, ahead=True)


def check_libtpu(name: str) -> None:
    """Raise UserError where the TPU's compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology {name} needs the TPU's compiler: pip install 'mae_jax[compile]' (libtpu, 205 MB).")


def tpu_devices(family: str, dims: tuple[int, ...], slices: int = 1) -> list[Any]:
    """The devices of a TPU slice that is not there. Raises UserError where libtpu refuses it."""
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    small = math.prod(dims) <= 8 and any(n % 2 for n in dims[:2])  # part of a host, as v5e:1x1
    options["chips_per_host_bounds"] = (*dims, 1)[:3] if small else (2, 2, 1)
    if family == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, as on the machines; else libtpu gives its cores
    name = f"{family}:{'x'.join(map(str, dims))}"
    with for_libtpu(), uncached():
        try:
            devices = list(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
            # It reads the flags once, when it first compiles.
            at = jax.sharding.SingleDeviceSharding(devices[0])
            jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), np.float32, sharding=at)).compile()
            return devices
        except jax.errors.JaxRuntimeError as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"--topology {name}: libtpu does not take it: {said}. Try a name as {EXAMPLES}.") from None


@contextlib.contextmanager
def for_libtpu() -> Iterator[None]:
    """Surroundings in which libtpu starts: the CPU has read XLA_FLAGS by then, of which libtpu ends the process."""
    if getattr(jax.config, "jax_platforms", None) is None:  # else jax would look for the TPU whose compiler it finds
        jax.config.update("jax_platforms", "cpu")
    jax.devices("cpu")
    flags = os.environ.pop("XLA_FLAGS", None)
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    try:
        yield
    finally:
        if flags is not None:
            os.environ["XLA_FLAGS"] = flags


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Compile without jax's cache, which writes programs for devices that are not here and cannot read them again."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    usual = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009  (its stub does not know it)
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # it looks at the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", usual)
        reset_cache()


def local() -> Topology:
    """This machine's devices. A CPU's memory is the machine's, shared among its devices."""
    devices = tuple(jax.devices())
    known = chip(devices[0].device_kind)
    memory = known.hbm_bytes if known else None
    if devices[0].platform == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / len(devices)
    elif stats := devices[0].memory_stats():
        memory = stats.get("bytes_limit", memory)
    return Topology("local", devices, known, memory, ahead=False)
