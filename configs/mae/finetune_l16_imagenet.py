r"""MAE, ViT-L/16, fine-tuned on ImageNet-1k: the published recipe, 50 epochs at 224 px (":448" for 448).

Run:      mae_jax finetune --config configs/mae/finetune_l16_imagenet.py --weights mae_pretrain_vit_large.pth \
              --out runs/finetune_l16 --config.data.path=/data/imagenet
Hardware: 8 h 52 min on 32 V100 (facebookresearch/mae, FINETUNE.md).
          On fewer chips raise train.microbatches (mixing stays that of the whole batch), or --config.mesh.remat=dots.
Expect:   top-1 85.9 % (paper, Table 3); 85.95, 85.87, 85.76, 85.88 in four runs; the released weights give 85.952.
"""

from _finetune_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the image size."""
    return recipe("mae_l", arg, patch=16, dim=1024, depth=24, heads=16)
