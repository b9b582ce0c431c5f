r"""Point-MAE fine-tuned on ModelNet40: the published recipe, 1024 points, or 8192 with ":8k".

Run:      mae_jax finetune --config configs/pointmae/finetune_modelnet40.py --workdir runs/pointmae_shapenet55 \
              --out runs/pointmae_modelnet40 --config.data.path=/data/modelnet40_normal_resampled
Hardware: the authors used one GPU and published no hours. 22.1 M parameters.
Expect:   top-1 93.2 % from 1024 points, 93.8 % with voting (--config.augment.points_votes=10), 94.04 % from 8192.
"""

from _pointmae_shapes import finetuning
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg`: "1k" (the default) or "8k" points."""
    if arg == "8k":
        return finetuning(8192, 512, stored=0, candidates=0, layout="modelnet40")
    return finetuning(1024, 64, stored=8192, candidates=1200, layout="modelnet40")
