"""From weights of any kind to a run that can use them: what verbs and the library build on."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from mae_jax.config import resolve
from mae_jax.schema import Config
from mae_jax.train.build import Run, build
from mae_jax.train.state import rest_of
from mae_jax.train.warm_start import place_weights
from mae_jax.weights.hints import Hints
from mae_jax.weights.store import Weights, fit_positions, open_weights


@dataclasses.dataclass(frozen=True)
class Opened:
    """Weights on the devices, with the run that reads them.

    Attributes:
      state: {"step", "params", "stats", "ema"} on the run's mesh; an encoder-only file gives the encoder alone.
      weights: the same on the host, with `info`.
    """

    config: Config
    run: Run
    state: dict[str, Any]
    weights: Weights

    @property
    def rest(self) -> dict[str, Any]:
        """What `Method.encode` reads besides the parameters."""
        return rest_of(self.state, self.run.frozen)


def opened(
    source: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    file: str | None = None,
    step: int | None = None,
    hints: Hints | None = None,
) -> Opened:
    """Open a workdir, a weights file or a catalogue name; `overrides` are "section.key=value".

    Learned positions are resampled where an override changes the image's size; `method.norm_pix` may be said where
    the file does not say it.

    Raises:
      UserError: nothing there, or weights that do not fit the config.
    """
    weights = open_weights(source, file=file, step=step, hints=hints, overrides=overrides)
    config = resolve(weights.config, overrides)
    run = build(config)
    weights = fit_positions(weights, run.method)
    if any(text.startswith("method.norm_pix=") for text in overrides):
        info = weights.info | {"norm_pix": config.method["norm_pix"]}
        weights = dataclasses.replace(weights, info=info)
    at = np.asarray(weights.info.get("step") or 0, np.int32)
    saved = {"step": at, "params": weights.params, "stats": weights.stats, "ema": weights.ema}
    state = place_weights(
        run, saved, str(file or source), mend="Leave out the overrides that change the model.",
        partial=weights.kind != "pretraining",
    )  # fmt: skip
    return Opened(config, run, state, weights)
