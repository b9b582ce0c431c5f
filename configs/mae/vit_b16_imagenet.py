r"""MAE, ViT-B/16, ImageNet-1k at 224 px: the paper's pretraining recipe, 800 epochs (":1600" for 1600).

Run:      mae_jax train --config configs/mae/vit_b16_imagenet.py \
              --workdir runs/vit_b16_imagenet --config.data.path=/data/imagenet
Hardware: 18 h on 8 A100 for 800 epochs (DailyMAE, FastSSL, with FFCV: the fastest published).
          On fewer chips raise train.microbatches, and --config.mesh.fsdp where memory is short.
Expect:   after 1600 epochs fine-tuning 83.6 % (paper, Table 3) and linear probe 68.0 % (paper) or 67.8 % (their repo).
"""

from _imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, patch=16, dim=768, depth=12, heads=12)
