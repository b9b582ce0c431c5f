r"""MaskAlign, ViT-B/16 taught by DINO-B/16, ImageNet-1k at 224 px: the authors' recipe, 200 epochs.

Run:      mae_jax train --config configs/maskalign/vit_b16_dino_b16_imagenet.py \
              --workdir runs/maskalign_vit_b16_dino_b16 --config.data.path=/data/imagenet
          The teacher is facebook/dino-vitb16 from Hugging Face: put its pytorch_model.bin (or name its
          model.safetensors by --config.method.teacher_file) into teachers/dino-vitb16/.
Hardware: 8 GPUs (the authors' command); no hours published.
Expect:   nothing published with this code's recipe that we know of.
"""

from _maskalign_imagenet import BASE, DINO_B16, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, BASE, DINO_B16)
