r"""MAE, ViT-S/16, ImageNet-1k at 224 px: the paper's pretraining recipe, 800 epochs (":1600" for 1600).

Run:      mae_jax train --config configs/mae/vit_s16_imagenet.py \
              --workdir runs/vit_s16_imagenet --config.data.path=/data/imagenet
Hardware: no published run; 39.0 GFLOP per image, 0.66 of ViT-B/16, which took 18 h on 8 A100 (DailyMAE).
          On fewer chips raise train.microbatches, and --config.mesh.fsdp where memory is short.
Expect:   the authors published no ViT-S, so there is no number of theirs to hold it to.
"""

from _imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, patch=16, dim=384, depth=12, heads=6)
