r"""VideoMAE V2, ViT-L/16 at 16 x 224 x 224: pretraining, 300 epochs of 1.35M clips in 4 views (":90": 90).

Run:      mae_jax train --config configs/videomaev2/vit_l16.py \
              --workdir runs/videomaev2_l16 --config.data.path=/data/videos
Hardware: 396 GFLOP per view and step.
          On fewer chips raise train.microbatches (the weight of a part is its number of scored tokens).
Expect:   after fine-tuning, Kinetics-400 85.4 %, SSv2 75.7 % (from memory of the paper's tables).
"""

from _videomaev2 import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe("l", arg)
