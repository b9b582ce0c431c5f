r"""DMAE, ViT-B/16 taught by MAE's ViT-L/16, ImageNet-1k at 224 px: their recipe, 100 epochs (":EPOCHS": others).

Run:      mae_jax train --config configs/dmae/vit_b16_vit_l16_imagenet.py --workdir runs/dmae_vit_b16_vit_l16_imagenet \
              --config.data.path=/data/imagenet
          (95 % hidden: --config.method.mask_ratio=0.95; teacher: mae_visualize_vit_large.pth of facebookresearch/mae)
Hardware: the authors used 8 GPUs and published no hours. The teacher runs up to the aligned block alone.
          On fewer chips raise train.microbatches, and --config.mesh.fsdp where memory is short.
Expect:   fine-tuning 84.0 % (abstract); 83.6 with 95 % hidden, 82.4 with 98 %.
"""

from _dmae_imagenet import BASE, LARGE, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, BASE, LARGE, "teachers/mae_visualize_vit_large.pth")
