r"""VideoMAE V2, ViT-B/16 at 16 x 224 x 224: pretraining, 200 epochs of 1.35M clips in 4 views (":90": 90).

Run:      mae_jax train --config configs/videomaev2/vit_b16.py \
              --workdir runs/videomaev2_b16 --config.data.path=/data/videos
Hardware: 145 GFLOP per view and step.
          On fewer chips raise train.microbatches (the weight of a part is its number of scored tokens).
Expect:   after fine-tuning, Kinetics-400 81.5 %, SSv2 71.2 % (from memory of the paper's tables).
"""

from _videomaev2 import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe("b", arg)
