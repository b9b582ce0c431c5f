"""`mae_jax replay`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae_jax.commands import options

HELP = "run one step of a run again: its loss, norms, samples, and where a NaN begins"

DESCRIPTION = """\
Run one step again: the weights of the nearest checkpoint before it, the batches from there on, then the step itself.
STEP is the number that metrics.jsonl and WORKDIR/guard/ give it. Printed are the loss, beside the one that the run
logged, the norm of each part's gradient, the names of the samples, and, where a number is not finite, the block and
layer at which that begins. Nothing of the run changes. Status 1 where a number is not finite.

The loss is equal to the bit on the same number of devices of the same kind.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="directory of the run")
    parser.add_argument("step", type=int, metavar="STEP", help="the step, as metrics.jsonl counts")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all of it, with all samples")
    parser.set_defaults(config=None)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    config = options.from_workdir(args.workdir, args.overrides)
    options.compile_cache()
    from mae_jax.train.loop import refuse_other_config, start
    from mae_jax.train.replay import replay

    refuse_other_config(config, args.workdir)
    task = config.transfer.task
    return replay(config, args.workdir, args.step, builder(config), start if task == "none" else None, args.output)


def builder(config: Any) -> Callable[[Any], Any]:
    """What builds the run of a config, by what it trains."""
    if config.transfer.task == "finetune":
        from mae_jax.transfer.task import build_finetune

        return build_finetune
    if config.transfer.task == "segment":
        from mae_jax import methods
        from mae_jax.transfer.parts import build_parts
        from mae_jax.transfer.segment_plan import build_segment

        points = "points" in methods.get(config.method["name"])().batch_spec
        return build_parts if points else lambda config: build_segment(config, None)
    from mae_jax.train.build import build

    return build
