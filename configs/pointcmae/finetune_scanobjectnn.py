r"""Point-CMAE fine-tuned on ScanObjectNN, 2048 points: full; frozen with ":linear" or ":mlp3".

Run:      mae_jax finetune --config configs/pointcmae/finetune_scanobjectnn.py:mlp3 \
              --workdir runs/pointcmae_shapenet55 --out runs/pointcmae_hardest \
              --config.data.path=/data/h5_files/main_split
          (with turns about the vertical axis: --config.augment.points_rotate=1)
Hardware: one GPU; no hours published. 22.1 M parameters.
Expect:   top-1 on the hardest variant (PB-T50-RS) 85.95 % full, 88.75 % with turns, 73.15 % linear, 77.47 % mlp3 (a
          later paper's table).
"""

from _pointcmae_shapes import finetuning
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg`: "full" (the default), "linear" or "mlp3", with ",objects" for the other variant."""
    protocol, _, variant = (arg or "full").partition(",")
    config = finetuning(
        2048, 128, protocol=protocol, rate=1e-4, stored=0, candidates=0, layout="scanobjectnn",
        variant=variant or "hardest",
    )  # fmt: skip
    config.augment.update(points_unit_sphere=False, points_sample="random")  # clouds as they are stored
    return config
