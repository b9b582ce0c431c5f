"""`mae_jax segment`."""

import argparse
from pathlib import Path

from mae_jax.commands import options
from mae_jax.core.errors import UserError

HELP = "train a segmentation head on a pretrained encoder, or go on where --out left off"

DESCRIPTION = """\
Train a head that gives every pixel a class, on the encoder of a run or of a weights file:

  mae_jax segment --workdir runs/shapes --config configs/mae/tiny_segment.py --out runs/shapes_segment
  mae_jax segment --config configs/mae/segment_b16_ade20k.py --weights mae_pretrain_vit_base.pth --out runs/ade20k \\
      --config.data.path=/data/ADEChallengeData2016

transfer.segment_head is "linear" (batch norm and a linear layer on the frozen encoder) or "upernet" (the encoder is
trained too). --out gets what `mae_jax train` writes (the same command resumes, to the bit), results.json with the IoU
of every class, and pictures/segmentation.png: test images, truth, prediction. --scratch takes a random encoder: the
baseline. docs/segmentation.md
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--workdir", type=Path, metavar="DIR", help="directory of a pretraining run")
    group.add_argument("--weights", metavar="FILE", help="a weights file (docs/weights.md) or a published one")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint of --workdir (default: the newest good one)")
    parser.add_argument("--scratch", action="store_true", help="random weights, of the network that is given")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the run is, or will be")
    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="config file whose values count before the recipe's")
    options.add_processes(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from mae_jax.config import load

    file = load(args.config)[0] if args.config is not None else None
    if args.workdir is None and args.weights is None and not (args.scratch and file and "method" in file):
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
    from mae_jax.transfer.segment import segment
    from mae_jax.weights.store import open_weights

    if args.workdir is None and args.weights is None:
        assert file is not None
        return segment(None, args.out, pretrained={"method": file["method"]}, file=file, overrides=args.overrides)
    weights = open_weights(args.workdir or args.weights, step=args.step)
    started = None if args.scratch else weights
    return segment(started, args.out, pretrained=weights.config, file=file, overrides=args.overrides)
