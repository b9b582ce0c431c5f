r"""MaskAlign, ViT-B/16, fine-tuned on ImageNet-1k at 224 px: the published recipe, 100 epochs.

Run:      mae_jax finetune --config configs/maskalign/finetune_b16_imagenet.py \
              --workdir runs/maskalign_vit_b16_clip_b16 --out runs/maskalign_b16_ft --config.data.path=/data/imagenet
Hardware: as MAE's ViT-B/16, 7 h 11 min on 32 V100 (facebookresearch/mae, FINETUNE.md); the authors give no time.
Expect:   top-1 85.4 % (repository's model card: CLIP-B/16 as teacher, 200 epochs of pretraining).
"""

from _maskalign_imagenet import BASE, CLIP_B16, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs of the pretraining."""
    pretraining = recipe(arg, BASE, CLIP_B16)
    return ConfigDict(
        dict(
            method=pretraining.method,
            data=pretraining.data,
            transfer=dict(task="finetune", recipe="maskalign_b"),
            train=dict(precision="bfloat16"),
            eval=dict(batch=1024),
        )
    )
