r"""MAE, ViT-L/16, ImageNet-1k at 224 px: the paper's pretraining recipe, 800 epochs (":1600" for 1600).

Run:      mae_jax train --config configs/mae/vit_l16_imagenet.py \
              --workdir runs/vit_l16_imagenet --config.data.path=/data/imagenet
Hardware: 15.4 h on 128 TPU v3 cores for 800 epochs (paper, Table 2);
          about 42 h on 64 V100 (facebookresearch/mae).
          On fewer chips raise train.microbatches, and --config.mesh.fsdp where memory is short.
Expect:   fine-tuning 85.4 % after 800 epochs and 85.9 % after 1600 (paper, Table 3); linear probe 75.8 % after 1600.
"""

from _imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, patch=16, dim=1024, depth=24, heads=16)
