"""`mae_jax segment`."""

import argparse

from mae_jax.commands import transfers

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
    parser.description = DESCRIPTION
    transfers.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""

    def train():
        from mae_jax.transfer.segment import segment

        return segment

    return transfers.run(args, train)
