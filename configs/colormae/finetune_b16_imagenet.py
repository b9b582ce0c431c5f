r"""ColorMAE, ViT-B/16, fine-tuned on ImageNet-1k at 224 px: the published recipe, 100 epochs (that of MAE's ViT-B).

Run:      mae_jax finetune --config configs/colormae/finetune_b16_imagenet.py \
              --workdir runs/colormae_vit_b16_imagenet --out runs/finetune_colormae_b16 \
              --config.data.path=/data/imagenet
Hardware: as MAE's ViT-B/16, 7 h 11 min on 32 V100 (facebookresearch/mae, FINETUNE.md); the authors give no time.
Expect:   top-1 83.01 / 83.61 / 83.77 % after 300 / 800 / 1600 epochs of pretraining under green noise (README).
"""

from _colormae_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs of the pretraining."""
    pretraining = recipe(arg, dim=768, depth=12, heads=12, positions="learned")
    return ConfigDict(
        dict(
            method=pretraining.method,
            data=pretraining.data,
            transfer=dict(task="finetune", recipe="mae_b"),
            train=dict(precision="bfloat16"),
            eval=dict(batch=1024),
        )
    )
