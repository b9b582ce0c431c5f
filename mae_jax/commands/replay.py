"""`mae_jax replay`."""

import argparse
from pathlib import Path

from mae_jax.commands import options

HELP = "run one step of a run again: its loss, norms, samples, and where a NaN begins"

DESCRIPTION = """\
Run one step again: the weights of the nearest checkpoint before it, the batches from there on, then the step itself.
STEP is the number that metrics.jsonl and WORKDIR/guard/ give it. Printed are the loss, beside the one that the run
logged, the norm of each part's gradient, the names of the samples, and, where a number is not finite, the block and
layer at which that begins. Nothing of the run changes. Status 1 where a number is not finite.

The loss is equal to the bit on the same number of devices of the same kind.

A run of `finetune` or `segment` needs the weights that it started from where no checkpoint is early enough, and where
its encoder is frozen (transfer.segment_head=linear), which is in no checkpoint.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("workdir", type=Path, metavar="WORKDIR", help="directory of the run")
    parser.add_argument("step", type=int, metavar="STEP", help="the step, as metrics.jsonl counts")
    parser.add_argument(
        "--weights", metavar="FILE|DIR", help="what a run of finetune or segment started from, a file or a workdir"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all of it, with all samples")
    parser.set_defaults(config=None)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    config = options.from_workdir(args.workdir, args.overrides)
    options.compile_cache()
    from mae_jax.train.loop import refuse_other_config
    from mae_jax.train.replay import replay
    from mae_jax.transfer.tasks import task_of

    refuse_other_config(config, args.workdir)
    task, whole = task_of(config, args.weights, args.overrides)
    return replay(config, args.workdir, args.step, task.build, task.start if whole else None, args.output)
