r"""Point-MAE fine-tuned on ScanObjectNN, 2048 points: the published recipe.

Run:      mae_jax finetune --config configs/pointmae/finetune_scanobjectnn.py:hardest \
              --workdir runs/pointmae_shapenet55 --out runs/pointmae_hardest \
              --config.data.path=/data/h5_files/main_split
Hardware: the authors used one GPU and published no hours. 22.1 M parameters.
Expect:   top-1 85.18 % on the hardest variant (PB-T50-RS), 90.02 % with ":objects" on main_split (OBJ-BG), 88.29 %
          with ":objects" on main_split_nobg (OBJ-ONLY).
"""

from _pointmae_shapes import finetuning
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg`: "hardest" (the default) or "objects"."""
    config = finetuning(2048, 128, stored=0, candidates=0, layout="scanobjectnn", variant=arg or "hardest")
    config.augment.update(points_unit_sphere=False, points_sample="random")  # clouds as they are stored
    return config
