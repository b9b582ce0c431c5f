"""Which of several implementations of the same function runs: decided once, at the start of a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.core.chips import defaults, family_of
from mae_jax.core.errors import UserError
from mae_jax.core.mesh import device_now

_HELD: set[tuple[str, str, str, Any]] = set()  # (name, kind, device kind, dtype) of what `choose` has confirmed
_FAILED: set[tuple[str, str, str, Any]] = set()


@dataclasses.dataclass(frozen=True)
class Choice:
    """Of mesh.NAME.

    Attributes:
      name: of the config's key, and of the chips' list (core/chips.py: Defaults).
      everywhere: the implementation that runs everywhere, and needs no trial.
      sure: others that are plain XLA; the rest is traced only where `choose` has confirmed it (a library's user has an
        old GPU, and no run that tried).
      cannot: (kind, family, dtype) -> why such chips cannot run it; None where they can.
      trial: (kind, device kind, dtype) -> what went wrong when it ran here against the plain form; None where it held.
    """

    name: str
    everywhere: str
    sure: tuple[str, ...]
    cannot: Callable[[str, str, Any], str | None]
    trial: Callable[[str, str, Any], str | None]

    def choose(self, asked: str, device: Any, dtype: Any) -> tuple[str, str]:
        """(implementation, why) for a run.

        "auto" takes the first of its chip's list that a trial run confirms: by the list and not by the clock, so that
        a run and its resumption choose alike. Devices that are only described (ahead of time) have no trial.

        Raises:
          UserError: an implementation that was asked for and cannot run here.
        """
        family, dtype = family_of(device), jnp.dtype(dtype)
        here = getattr(device, "client", None) is jax.local_devices()[0].client  # on every process of a run
        wanted = getattr(defaults(family), self.name) if asked == "auto" else (asked,)
        found, passed = [], []
        for kind in wanted:  # all of them: what follows the first is for what does not fit it
            wrong = self._wrong(kind, device, family, dtype, here)
            (_FAILED if wrong else _HELD).add((self.name, kind, device.device_kind, dtype))
            if wrong is None:
                found.append(kind)
            else:
                passed.append((kind, wrong))
        if found or asked == "auto":
            kind = found[0] if found else self.everywhere
            return kind, f"mesh.{self.name}={asked}" + "".join(f"; not {k}: {w}" for k, w in passed)
        raise UserError(
            f"mesh.{self.name}={asked} cannot run on {device.device_kind}: {passed[0][1]}. Choose "
            f"mesh.{self.name}=auto, which takes what this chip runs best, or {self.everywhere}, which runs everywhere."
        )

    def now(self, asked: str, dtype: Any) -> tuple[str, ...]:
        """What may be traced now, the best first: what `choose` decided, and for "auto" what follows in the list."""
        if asked != "auto":
            return (asked,)
        device = device_now()
        family, dtype = family_of(device), jnp.dtype(dtype)

        def able(kind: str) -> bool:
            key = (self.name, kind, device.device_kind, dtype)
            sure = kind in self.sure or key in _HELD
            return sure and key not in _FAILED and self.cannot(kind, family, dtype) is None

        return (*filter(able, getattr(defaults(family), self.name)), self.everywhere)

    def _wrong(self, kind: str, device: Any, family: str, dtype: Any, here: bool) -> str | None:
        if wrong := self.cannot(kind, family, dtype):
            return wrong
        return self.trial(kind, device.device_kind, dtype) if here and kind != self.everywhere else None


def differ(kernel: Callable[[], Any], plain: Callable[[], Any], bound: float) -> str | None:
    """What is wrong with the gradients of a kernel; None where each array is off by less than `bound` of the plain
    form's largest number."""
    try:
        got = kernel()
    except Exception as error:  # whatever a backend raises where it has no such kernel
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(plain()), strict=True):
        ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
        off = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if not off < bound:
            return f"its gradient differs from the plain one's by {off:.2g} of the largest"
    return None
