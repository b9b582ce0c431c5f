"""`mae_jax finetune`."""

import argparse
from pathlib import Path

from mae_jax.commands import options
from mae_jax.core.errors import UserError

HELP = "train a classifier from pretrained weights, or go on where --out left off"

DESCRIPTION = """\
Fine-tune the encoder of a run or of a weights file, with a linear head, on labelled data:

  mae_jax finetune --workdir runs/digits --out runs/digits_ft
  mae_jax finetune --config configs/mae/finetune_b16_imagenet.py --weights mae_pretrain_vit_base.pth \\
      --out runs/ft_b16 --config.data.path=/data/imagenet

The recipe is transfer.recipe (docs/finetune.md), by default the one for the encoder's width; a --config FILE, and then
single overrides, change it. Data and normalisation are the weights' own unless something else is said. Each epoch is
validated on the test split. --out gets what `mae_jax train` writes (the same command resumes, to the bit),
results.json, and the classifier as model.safetensors. --scratch starts from random weights: the baseline.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description, parser.epilog = DESCRIPTION, options.OVERRIDES_HELP
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--workdir", type=Path, metavar="DIR", help="directory of a pretraining run")
    group.add_argument("--weights", metavar="FILE", help="a weights file (docs/weights.md) or a published one")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint of --workdir (default: the newest good one)")
    parser.add_argument(
        "--scratch", action="store_true", help="random weights: the same network as --workdir or --config"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the run is, or will be")
    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="config file whose values count before the recipe's")
    options.add_processes(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    if args.workdir is None and args.weights is None and not (args.scratch and args.config):
        raise UserError(
            "which weights? Give --workdir (a run) or --weights (a file), or --scratch with --config for random ones."
        )
    if args.step is not None and args.workdir is None:
        raise UserError("--step chooses a checkpoint of a --workdir; a file of weights has only one.")
    if args.workdir is not None and args.workdir.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out} is the pretraining's own --workdir: name another directory.")
    file = None
    if args.config is not None:
        from mae_jax.config import load

        file, _ = load(args.config)
    options.start_processes(args)
    options.compile_cache()
    from mae_jax.transfer.task import finetune
    from mae_jax.weights.store import open_weights

    if args.workdir is None and args.weights is None:
        assert file is not None
        return finetune(None, args.out, pretrained={"method": file["method"]}, file=file, overrides=args.overrides)
    weights = open_weights(args.workdir or args.weights, step=args.step)
    started = None if args.scratch else weights
    return finetune(started, args.out, pretrained=weights.config, file=file, overrides=args.overrides)
