"""What a config asks of a chip, against what the chip can do: said before the first long step."""

from typing import Any

from mae_jax.core.chips import CHIPS, chip, family_of
from mae_jax.core.errors import UserError
from mae_jax.nets.attention_kinds import ATTENTION
from mae_jax.nets.compute import PRECISIONS
from mae_jax.nets.norm_kernel import NORM
from mae_jax.schema import Config


def check_chip(config: Config, device: Any) -> None:
    """Raise UserError where this kind of device cannot do train.fp8, mesh.remat, mesh.attention or mesh.norm.

    Args:
      device: the first of the mesh, present or only described (ahead of time).
    """
    known, name = chip(device.device_kind), device.device_kind
    if config.train.fp8 and (known is None or known.fp8_flops is None):
        able = ", ".join(c.name for c in CHIPS if c.fp8_flops)
        raise UserError(f"train.fp8=True: {name} does not multiply in float8 ({able} do); leave it False.")
    if config.train.fp8 and config.mesh.tensor > 1:
        raise UserError("train.fp8=True does not go with mesh.tensor above 1: set one of them back.")
    if config.mesh.remat == "offload" and family_of(device) == "cpu":
        raise UserError(
            f"mesh.remat=offload keeps activations in the host's memory, and {name} has no other: choose full or dots."
        )
    kernels(config, device)


def kernels(config: Config, device: Any) -> dict[str, str]:
    """{"attention": which runs and why, "norm": likewise}, for the text at the start of a run."""
    dtype, found = PRECISIONS[config.train.precision], {}
    for choice in (ATTENTION, NORM):
        kind, why = choice.choose(getattr(config.mesh, choice.name), device, dtype)
        found[choice.name] = f"{kind} ({why})"
    return found
