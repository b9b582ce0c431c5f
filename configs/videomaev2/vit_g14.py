r"""VideoMAE V2, ViT-g/14 at 16 x 224 x 224: pretraining, 300 epochs of 1.35M clips in 4 views (":90": 90).

Run:      mae_jax train --config configs/videomaev2/vit_g14.py \
              --workdir runs/videomaev2_g14 --config.data.path=/data/videos
Hardware: 64 GPUs with the authors. 1431 GFLOP per view and step; what fits: docs/methods/videomaev2.md.
          On fewer chips raise train.microbatches (the weight of a part is its number of scored tokens).
Expect:   after fine-tuning, Kinetics-400 87.2 %, with labels of K710 between 88.4 %; SSv2 77.0 % (the authors' tables).
"""

from _videomaev2 import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe("g", arg)
