r"""VideoMAE V2, ViT-S/16 at 16 x 224 x 224: pretraining, 200 epochs of 1.35M clips in 4 views (":90": 90).

Run:      mae_jax train --config configs/videomaev2/vit_s16.py \
              --workdir runs/videomaev2_s16 --config.data.path=/data/videos
Hardware: 42 GFLOP per view and step.
          On fewer chips raise train.microbatches (the weight of a part is its number of scored tokens).
Expect:   no published number: the authors' small model starts from distillation (Kinetics-400 83.7 %).
"""

from _videomaev2 import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe("s", arg)
