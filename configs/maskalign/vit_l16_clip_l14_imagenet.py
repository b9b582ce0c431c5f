r"""MaskAlign, ViT-L/16 taught by CLIP-L/14 at 196 px, ImageNet-1k at 224 px: the authors' recipe, 200 epochs.

Run:      mae_jax train --config configs/maskalign/vit_l16_clip_l14_imagenet.py \
              --workdir runs/maskalign_vit_l16_clip_l14 --config.data.path=/data/imagenet
          The teacher is openai/clip-vit-large-patch14 from Hugging Face: put its pytorch_model.bin (or name its
          model.safetensors by --config.method.teacher_file) into teachers/clip-vit-large-patch14/.
Hardware: 8 GPUs (the authors' command); no hours published.
Expect:   fine-tuning 87.4 % (repository's model card, 200 epochs).
"""

from _maskalign_imagenet import CLIP_L14, LARGE, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, LARGE, CLIP_L14)
