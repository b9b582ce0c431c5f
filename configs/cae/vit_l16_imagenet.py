r"""CAE, ViT-L/16, ImageNet-1k at 224 px: the authors' pretraining recipe, 1600 epochs (":300", ":800" for fewer).

The published script misses a line continuation, so that regressor and decoder run 768 wide, behind a projection. What
it means is --config.method.decoder_dim=1024 (with 12 heads of 85 even so: their number is never passed on).

Run:      mae_jax train --config configs/cae/vit_l16_imagenet.py \
              --workdir runs/cae_vit_l16 --config.data.path=/data/imagenet \
              --config.method.tokenizer_file=/data/dall_e/encoder.pkl
          (the tokenizer: https://cdn.openai.com/dall-e/encoder.pkl)
Hardware: 32 GPUs, 64 images each (scripts/cae_large_1600e.sh); hours are not published. 187.9 GFLOP forward per image,
          52.1 of them the frozen tokenizer. On fewer chips raise train.microbatches, and --config.mesh.fsdp.
Expect:   linear probe 77.8 %, attentive probe 81.2 %, fine-tuning 86.2 % after 1600 epochs (README of Atten4Vis/CAE).
"""

from _cae_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, 1600, dim=1024, depth=24, heads=16, layer_scale=1e-5, decoder_dim=768, decoder_layer_scale=1e-5)
