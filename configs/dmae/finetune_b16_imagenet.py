r"""DMAE, ViT-B/16, fine-tuned on ImageNet-1k at 224 px: the published recipe, 100 epochs.

Run:      mae_jax finetune --config configs/dmae/finetune_b16_imagenet.py \
              --workdir runs/dmae_vit_b16_vit_l16_imagenet --out runs/finetune_dmae_b16 \
              --config.data.path=/data/imagenet
Hardware: as MAE's ViT-B/16, 7 h 11 min on 32 V100 (facebookresearch/mae, FINETUNE.md); the authors give no time.
Expect:   top-1 84.0 % (abstract).
"""

from _dmae_imagenet import BASE, LARGE, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs of the pretraining."""
    pretraining = recipe(arg, BASE | dict(positions="learned"), LARGE, "teachers/mae_visualize_vit_large.pth")
    return ConfigDict(
        dict(
            method=pretraining.method,
            data=pretraining.data,
            transfer=dict(task="finetune", recipe="mae_b", layer_decay=0.75, drop_path=0.15, warmup=20),
            train=dict(precision="bfloat16"),
            eval=dict(batch=1024),
        )
    )
