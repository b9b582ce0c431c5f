r"""ColorMAE under green noise, ViT-L/16, ImageNet-1k at 224 px: the authors' recipe, 300 epochs (":800", ":1600").

Run:      mae_jax train --config configs/colormae/vit_l16_imagenet.py \
              --workdir runs/colormae_vit_l16_imagenet --config.data.path=/data/imagenet
          (their patterns: --config.method.bank='noise/{colour}_noise_data_3072.npz', with the file's own
          method.patterns and method.pattern_size; by default a bank is made at the start)
Hardware: as MAE's ViT-L/16: the masks cost nothing beside the network. The authors used 8 GPUs with 512 images each.
          On fewer chips raise train.microbatches, and --config.mesh.fsdp where memory is short.
Expect:   the authors segment with this size; they publish no number for it.
"""

from _colormae_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, dim=1024, depth=24, heads=16)
