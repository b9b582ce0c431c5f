r"""LUT, ViT-L/16, ImageNet-1k at 224 px: the authors' pretraining recipe, 1600 epochs (":400" for 400).

Run:      mae_jax train --config configs/lut/vit_l16_imagenet.py \
              --workdir runs/lut_vit_l16_imagenet --config.data.path=/data/imagenet
Hardware: the authors used 8 V100 and published no hours. 462 GFLOP per image and step, 3.7 times MAE's.
          On fewer chips raise train.microbatches (batch norm then sees each part by itself, as theirs did with 4),
          and --config.mesh.fsdp where memory is short.
Expect:   fine-tuning 86.0 % (paper's table; MAE 85.6 there).
"""

from _lut_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, dim=1024, depth=24, heads=16)
