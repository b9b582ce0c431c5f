r"""MAE, ViT-H/14, fine-tuned on ImageNet-1k: the published recipe, 50 epochs at 224 px (":448" for 448).

Run:      mae_jax finetune --config configs/mae/finetune_h14_imagenet.py --weights mae_pretrain_vit_huge.pth \
              --out runs/finetune_h14 --config.data.path=/data/imagenet
Hardware: 13 h 9 min on 64 V100 (facebookresearch/mae, FINETUNE.md).
          On fewer chips raise train.microbatches (mixing stays that of the whole batch), or --config.mesh.remat=dots.
Expect:   top-1 86.9 % (paper, Table 3), 87.8 % at 448 px; the released weights give 86.928 at 224 px.
"""

from _finetune_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the image size."""
    return recipe("mae_h", arg, patch=14, dim=1280, depth=32, heads=16)
