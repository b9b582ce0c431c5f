r"""VideoMAE V2, ViT-H/16 at 16 x 224 x 224: pretraining, 300 epochs of 1.35M clips in 4 views (":90": 90).

Run:      mae_jax train --config configs/videomaev2/vit_h16.py \
              --workdir runs/videomaev2_h16 --config.data.path=/data/videos
Hardware: 716 GFLOP per view and step.
          On fewer chips raise train.microbatches (the weight of a part is its number of scored tokens).
Expect:   after fine-tuning, Kinetics-400 86.9 %, SSv2 76.8 % (from memory of the paper's tables).
"""

from _videomaev2 import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe("h", arg)
