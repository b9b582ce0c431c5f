r"""Point-MAE on ShapeNet-55, 1024 points: the authors' pretraining recipe, 300 epochs (":100" for 100).

Run:      mae_jax train --config configs/pointmae/shapenet55.py --workdir runs/pointmae_shapenet55 \
              --config.data.path=/data/ShapeNet55-34/ShapeNet-55
Hardware: the authors used one GPU and published no hours. 29.0 M parameters.
Expect:   fine-tuned on ScanObjectNN 90.02 / 88.29 / 85.18 % and on ModelNet40 93.8 % with voting (repository's table).
"""

from _pointmae_shapes import pretraining
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return pretraining(arg)
