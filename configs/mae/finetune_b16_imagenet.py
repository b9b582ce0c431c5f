r"""MAE, ViT-B/16, fine-tuned on ImageNet-1k: the published recipe, 100 epochs at 224 px (":448" for 448).

Run:      mae_jax finetune --config configs/mae/finetune_b16_imagenet.py --weights mae_pretrain_vit_base.pth \
              --out runs/finetune_b16 --config.data.path=/data/imagenet
Hardware: 7 h 11 min on 32 V100 (facebookresearch/mae, FINETUNE.md).
          On fewer chips raise train.microbatches (mixing stays that of the whole batch), or --config.mesh.remat=dots.
Expect:   top-1 83.6 % (paper, Table 3); 83.63, 83.66, 83.52, 83.46 in four runs; the released weights give 83.664.
"""

from _finetune_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the image size."""
    return recipe("mae_b", arg, patch=16, dim=768, depth=12, heads=12)
