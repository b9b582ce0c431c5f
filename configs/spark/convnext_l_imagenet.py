r"""SparK, ConvNeXt-L, ImageNet-1k at 224 px: the authors' pretraining recipe, 1600 epochs (":300" for 300).

Run:      mae_jax train --config configs/spark/convnext_l_imagenet.py \
              --workdir runs/spark_convnext_l_imagenet --config.data.path=/data/imagenet
Hardware: the authors name none; 277 GFLOP per image and step, 4.7 times MAE's ViT-B/16: what is hidden
          costs as much as what is seen.
          On fewer chips raise train.microbatches (batch norms then see one part at a time), and --config.mesh.fsdp
          or --config.mesh.remat=full where memory is short.
Expect:   fine-tuning 85.4 % (keyu-tian/SparK, README); a pretraining loss of 0.2 to 0.4 at the end
          (their issue 53).
"""

from _spark_imagenet import convnext, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, drop_path=0.4, **convnext(192))
