r"""Point-CMAE on ShapeNet-55, 1024 points: the authors' pretraining recipe, 300 epochs (":100" for 100).

Run:      mae_jax train --config configs/pointcmae/shapenet55.py --workdir runs/pointcmae_shapenet55 \
              --config.data.path=/data/ShapeNet55-34/ShapeNet-55
Hardware: one A100 of 40 GB; no hours published. 36.35 M parameters.
Expect:   fine-tuned on ScanObjectNN 90.02 / 88.64 / 85.95 % (a later paper's table). The authors used one A100.
"""

from _pointcmae_shapes import pretraining
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return pretraining(arg)
