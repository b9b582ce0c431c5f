r"""VideoMAE, ViT-H/16, 16 frames of 224 px: the authors' pretraining on Kinetics-400, 800 epochs.

":ssv2" is Something-Something V2, ":ucf101" UCF101; ":k400,1600" other epochs.

Run:      mae_jax train --config configs/videomae/vit_h16.py \
              --workdir runs/videomae_h16 --config.data.path=/data/k400
Hardware: the authors used 64 GPUs for ViT-B; hours were not at hand. 1409 GFLOP per clip and step.
          On fewer chips raise train.microbatches.
Expect:   after fine-tuning, Kinetics-400 86.6 % (the authors' tables; 16 frames, 5 x 3 views, SSv2 2 x 3).
"""

from _videomae import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg`: the data, and after a comma the epochs."""
    return recipe("h", arg)
