r"""LUT, ViT-B/16, fine-tuned on ImageNet-1k at 224 px: the published recipe, 100 epochs.

Run:      mae_jax finetune --config configs/lut/finetune_b16_imagenet.py --workdir runs/vit_b16_imagenet \
              --out runs/finetune_lut_b16 --config.data.path=/data/imagenet
Hardware: as MAE's ViT-B/16, 7 h 11 min on 32 V100 (facebookresearch/mae, FINETUNE.md); the authors give no time.
Expect:   top-1 84.2 % after 1600 epochs of pretraining (the authors' table).
"""

from _lut_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs of the pretraining."""
    pretraining = recipe(arg, dim=768, depth=12, heads=12)
    return ConfigDict(
        dict(
            method=pretraining.method,
            data=pretraining.data,
            transfer=dict(task="finetune", recipe="lut_b"),
            train=dict(precision="bfloat16"),
            eval=dict(batch=1024),
        )
    )
