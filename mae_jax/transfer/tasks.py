"""What the config of an existing run trains, and the weights that it started from, for whoever runs it again."""

import re
from collections.abc import Sequence
from pathlib import Path

from mae_jax.config import make_method
from mae_jax.core.errors import UserError
from mae_jax.schema import Config
from mae_jax.train.loop import PRETRAINING, Task
from mae_jax.transfer import parts, segment, task
from mae_jax.transfer.start import SCRATCH, identity
from mae_jax.weights.store import Weights, open_weights


def task_of(config: Config, given: str | None, overrides: Sequence[str] = ()) -> tuple[Task, bool]:
    """(the task of a run's config, whether `Task.start` starts the run as it was started).

    Args:
      given: where the weights lie that it started from, a file or a workdir; None: they are not at hand.
      overrides: as `weights.store.open_weights` has them.

    Raises:
      UserError: other weights, or none where the run cannot be built without.
    """
    t = config.transfer
    if t.task == "none":
        if given is not None:
            raise UserError("--weights: a pretraining run starts from none; leave it out.")
        return PRETRAINING, True
    weights = None if given is None else started_from(given, t.init, overrides)
    whole = weights is not None or t.init == SCRATCH
    if t.task == "finetune":
        return task.finetuning(weights), whole
    if "points" in make_method(config).batch_spec:
        return parts.segmenting(weights), whole
    if t.segment_head == "linear" and not whole:
        raise UserError(
            f"the encoder of this run is frozen, so that it is in no checkpoint: give what it started from, {t.init}, "
            f"as --weights FILE (or the workdir)."
        )
    return segment.segmenting(weights), whole


def started_from(given: str, init: str, overrides: Sequence[str] = ()) -> Weights:
    """The weights at `given`. Raises UserError where they are not those that `init` (transfer.init) names."""
    step = re.search(r" step (\d+), crc32", init)
    weights = open_weights(given, step=int(step[1]) if step and Path(given).is_dir() else None, overrides=overrides)
    if identity(weights).rpartition(" ")[2] != init.rpartition(" ")[2]:  # names change when files move
        raise UserError(f"--weights {given} is {identity(weights)}, but the run started from {init}.")
    return weights
