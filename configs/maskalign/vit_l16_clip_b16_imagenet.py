r"""MaskAlign, ViT-L/16 taught by CLIP-B/16 through a 12 x 24 layer mixture, ImageNet-1k: the authors' recipe.

Run:      mae_jax train --config configs/maskalign/vit_l16_clip_b16_imagenet.py \
              --workdir runs/maskalign_vit_l16_clip_b16 --config.data.path=/data/imagenet
          The teacher is openai/clip-vit-base-patch16 from Hugging Face: put its pytorch_model.bin (or name its
          model.safetensors by --config.method.teacher_file) into teachers/clip-vit-base-patch16/.
Hardware: 8 GPUs (the authors' command); no hours published.
Expect:   fine-tuning 86.5 % (repository's model card, 200 epochs).
"""

from _maskalign_imagenet import CLIP_B16, LARGE, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, LARGE, CLIP_B16, fusion="sum")
