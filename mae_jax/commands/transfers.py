"""What the verbs `finetune` and `segment` share: a run of its own that starts from pretrained weights."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mae_jax.commands import options
from mae_jax.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--workdir, --weights or --scratch; --out; --config; the processes."""
    parser.epilog = options.OVERRIDES_HELP
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--workdir", type=Path, metavar="DIR", help="directory of a pretraining run")
    group.add_argument("--weights", metavar="FILE", help="a weights file (docs/weights.md) or a published one")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint of --workdir (default: the newest good one)")
    parser.add_argument(
        "--scratch", action="store_true", help="random weights: the same network as --workdir or --config"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the run is, or will be")
    parser.add_argument("--config", metavar="FILE[:ARG]", help="config file (.py, .json) that counts before the recipe")
    options.add_processes(parser)


def run(args: argparse.Namespace, train: Callable[[], Callable[..., int]]) -> int:
    """Check the arguments, open the weights, train.

    Args:
      train: gives the function that trains (its imports are heavy): (weights or None, out, pretrained=, file=,
        overrides=) -> exit status.
    """
    from mae_jax.config import load

    file = load(args.config, args.overrides)[0] if args.config is not None else None
    given = args.workdir or args.weights
    if given is None and not (args.scratch and file and "method" in file):
        raise UserError(
            "which weights? Give --workdir (of a run) or --weights (a file), or --scratch with a --config that names a "
            "method for random ones."
        )
    if args.step is not None and args.workdir is None:
        raise UserError("--step chooses a checkpoint of a --workdir; a file of weights has only one.")
    if args.workdir is not None and args.workdir.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out} is the pretraining's own --workdir: name another directory.")
    options.start_processes(args)
    options.compile_cache()
    from mae_jax.weights.store import open_weights

    weights = None if given is None else open_weights(given, step=args.step, overrides=args.overrides)
    pretrained = {"method": (file or {})["method"]} if weights is None else weights.config
    return train()(
        None if args.scratch else weights, args.out, pretrained=pretrained, file=file, overrides=args.overrides
    )
