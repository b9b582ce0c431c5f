r"""ColorMAE under green noise, ViT-B/16, ImageNet-1k at 224 px: the authors' recipe, 300 epochs (":800", ":1600").

Run:      mae_jax train --config configs/colormae/vit_b16_imagenet.py \
              --workdir runs/colormae_vit_b16_imagenet --config.data.path=/data/imagenet
          (their patterns: --config.method.bank='noise/{colour}_noise_data_3072.npz', with the file's own
          method.patterns and method.pattern_size; by default a bank is made at the start)
Hardware: as MAE's ViT-B/16: the masks cost nothing beside the network. The authors used 8 GPUs with 512 images each.
          On fewer chips raise train.microbatches, and --config.mesh.fsdp where memory is short.
Expect:   fine-tuning 83.01 / 83.61 / 83.77 % after 300 / 800 / 1600 epochs; ADE20K 45.80 / 49.18 mIoU (README). Their
          logs: loss 0.908 at step 100, 0.501 at epoch 151 of 300, at the end 0.483 (300), 0.476 (800), 0.478 (1600).
"""

from _colormae_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, dim=768, depth=12, heads=12)
