r"""MaskAlign, ViT-B/16 taught by CLIP-B/16, ImageNet-1k at 224 px: the authors' recipe, 200 epochs.

Run:      mae_jax train --config configs/maskalign/vit_b16_clip_b16_imagenet.py \
              --workdir runs/maskalign_vit_b16_clip_b16 --config.data.path=/data/imagenet
          The teacher is openai/clip-vit-base-patch16 from Hugging Face: put its pytorch_model.bin (or name its
          model.safetensors by --config.method.teacher_file) into teachers/clip-vit-base-patch16/.
Hardware: 8 GPUs (the authors' command); no hours published.
Expect:   fine-tuning 85.4 % (repository's model card, 200 epochs).
"""

from _maskalign_imagenet import BASE, CLIP_B16, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, BASE, CLIP_B16)
