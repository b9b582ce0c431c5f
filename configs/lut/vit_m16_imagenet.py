r"""LUT, ViT-M/16, ImageNet-1k at 224 px: the authors' pretraining recipe, 1600 epochs (":400" for 400).

Run:      mae_jax train --config configs/lut/vit_m16_imagenet.py \
              --workdir runs/lut_vit_m16_imagenet --config.data.path=/data/imagenet
Hardware: the authors used 8 V100 and published no hours. 87.5 GFLOP per image and step, 2.0 times MAE's.
          On fewer chips raise train.microbatches (batch norm then sees each part by itself, as theirs did with 4),
          and --config.mesh.fsdp where memory is short.
Expect:   the authors' code has this size, their table has no number for it.
"""

from _lut_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, dim=512, depth=12, heads=8)
