"""`mae_jax train`."""

import argparse
from pathlib import Path

from mae_jax.commands import options
from mae_jax.core.errors import UserError

HELP = "pretrain by a config file, or go on where a workdir left off"

DESCRIPTION = """\
Pretrain the method of a config file. Everything is written into the workdir:

  config.json     the resolved config         metrics.jsonl  one JSON object per logged step
  checkpoints/    state, data position, hash  tensorboard/   the same for TensorBoard
  pictures/       reconstructions             curves.png     loss and probes, at the end
  results.json    the table of the final probes, if the config asks for one; details in results_full.json

The same command on an existing workdir resumes, to the bit, where the last checkpoint left off; it refuses where the
config differs in a way that matters. Ctrl-C or SIGTERM saves a checkpoint and ends with status 143.

--debug writes nothing. It starts from the newest checkpoint of --workdir if there is one: the batch looked at is then
the one that comes next, so that a run which broke off at a NaN is looked at where it broke.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="config file: .py (code) or .json (data)")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="where the run is, or will be")
    parser.add_argument(
        "--debug", nargs="?", type=int, const=100, metavar="STEPS",
        help="write nothing: shapes, the first NaN, one batch overfitted (100 steps); status 1 where something fails",
    )  # fmt: skip
    parser.add_argument(
        "--profile", metavar="A:B",
        help="trace the steps after A up to B into WORKDIR/profile (xprof, TensorBoard); print the longest operations",
    )  # fmt: skip
    options.add_processes(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    if args.workdir is None and args.debug is None:
        raise UserError("--workdir says where the run is written, and it is missing: add --workdir=runs/NAME.")
    config = options.from_file(args.config, args.overrides)
    span = None
    if args.profile is not None:  # before anything starts: a mistyped span costs nothing
        if args.debug is not None:
            raise UserError("--debug writes nothing, so there is no trace of it: leave out --debug or --profile.")
        from mae_jax.train.profile import parse_span

        span = parse_span(args.profile, config.train.steps)
    options.start_processes(args, config.guard.heartbeat)
    options.compile_cache()
    if args.debug is not None:
        from mae_jax.train.debug import debug

        return debug(config, args.workdir, args.debug)
    from mae_jax.train.loop import train

    return train(config, args.workdir, profile=span)
