r"""CAE, ViT-S/16, ImageNet-1k at 224 px: CAE-B's recipe for a size that has none, 300 epochs (":800", ":1600").

Run:      mae_jax train --config configs/cae/vit_s16_imagenet.py \
              --workdir runs/cae_vit_s16 --config.data.path=/data/imagenet \
              --config.method.tokenizer_file=/data/dall_e/encoder.pkl
          (the tokenizer: https://cdn.openai.com/dall-e/encoder.pkl)
Hardware: no published run; 74.7 GFLOP forward per image, 52.1 of them the frozen tokenizer.
Expect:   the repository defines this size, but publishes no recipe and no number for it.
"""

from _cae_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, 300, dim=384, depth=12, heads=12, layer_scale=0.1, decoder_dim=768, decoder_layer_scale=0.1)
