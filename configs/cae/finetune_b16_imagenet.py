r"""CAE, ViT-B/16, fine-tuned on ImageNet-1k at 224 px: the published recipe, 100 epochs.

Run:      mae_jax finetune --config configs/cae/finetune_b16_imagenet.py --workdir runs/cae_vit_b16 \
              --out runs/finetune_cae_b16 --config.data.path=/data/imagenet
Hardware: as MAE's ViT-B/16, 7 h 11 min on 32 V100 (facebookresearch/mae, FINETUNE.md); the authors give no time.
Expect:   top-1 83.6 / 83.8 / 83.9 % after 300 / 800 / 1600 epochs of pretraining (README of Atten4Vis/CAE).
"""

from _cae_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs of the pretraining."""
    pretraining = recipe(
        arg, 800, dim=768, depth=12, heads=12, layer_scale=0.1, decoder_dim=768, decoder_layer_scale=0.1
    )
    return ConfigDict(
        dict(
            method=pretraining.method,
            data=pretraining.data,
            augment=dict(colour_jitter=(0.4, 0.4, 0.4, 0.0)),  # timm's 0.4: no RandAugment here
            transfer=dict(task="finetune", recipe="cae_b"),
            train=dict(precision="bfloat16"),
            eval=dict(batch=1024),
        )
    )
