"""`mae_jax finetune`."""

import argparse

from mae_jax.commands import transfers

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
    parser.description = DESCRIPTION
    transfers.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""

    def train():
        from mae_jax.transfer.task import finetune

        return finetune

    return transfers.run(args, train)
