r"""SparK, ResNet-101, ImageNet-1k at 224 px: the authors' pretraining recipe, 1600 epochs (":300" for 300).

Run:      mae_jax train --config configs/spark/resnet101_imagenet.py \
              --workdir runs/spark_resnet101_imagenet --config.data.path=/data/imagenet
Hardware: the authors name none; 120 GFLOP per image and step, 2.1 times MAE's ViT-B/16: what is hidden
          costs as much as what is seen.
          On fewer chips raise train.microbatches (batch norms then see one part at a time), and --config.mesh.fsdp
          or --config.mesh.remat=full where memory is short.
Expect:   fine-tuning 82.2 % (keyu-tian/SparK, README); a pretraining loss of 0.2 to 0.4 at the end
          (their issue 53).
"""

from _spark_imagenet import RESNET, recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, depths=(3, 4, 23, 3), drop_path=0.08, **RESNET)
