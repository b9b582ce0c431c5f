r"""MAE, ViT-H/14, ImageNet-1k at 224 px: the paper's pretraining recipe, 800 epochs (":1600" for 1600).

Run:      mae_jax train --config configs/mae/vit_h14_imagenet.py \
              --workdir runs/vit_h14_imagenet --config.data.path=/data/imagenet
Hardware: 34.5 h on 128 TPU v3 cores for 800 epochs (paper, Table 2).
          On fewer chips raise train.microbatches, and --config.mesh.fsdp or
          --config.mesh.remat=dots where memory is short.
Expect:   after 1600 epochs fine-tuning 86.9 % (paper, Table 3) and linear probe 76.6 % (paper) or 77.2 % (their repo).
"""

from _imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, patch=14, dim=1280, depth=32, heads=16)
