r"""CAE, ViT-B/16, ImageNet-1k at 224 px: the authors' pretraining recipe, 800 epochs (":300", ":1600" for the others).

Run:      mae_jax train --config configs/cae/vit_b16_imagenet.py \
              --workdir runs/cae_vit_b16 --config.data.path=/data/imagenet \
              --config.method.tokenizer_file=/data/dall_e/encoder.pkl
          (the tokenizer: https://cdn.openai.com/dall-e/encoder.pkl)
Hardware: 32 GPUs, 64 images each (scripts/cae_base_800e.sh); hours are not published. 100.3 GFLOP forward per image,
          52.1 of them the frozen tokenizer. On fewer chips raise train.microbatches.
Expect:   after 300 / 800 / 1600 epochs: linear probe 64.5 / 68.9 / 70.3 %, attentive probe 74.0 / 75.9 / 77.2 %,
          fine-tuning 83.6 / 83.8 / 83.9 % (README of Atten4Vis/CAE).
"""

from _cae_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, 800, dim=768, depth=12, heads=12, layer_scale=0.1, decoder_dim=768, decoder_layer_scale=0.1)
