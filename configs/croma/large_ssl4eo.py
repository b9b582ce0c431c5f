r"""CROMA-L (12 + 2 channels at 120 px, patches of 8 px), SSL4EO-S12: pretraining, 600 epochs.

Run:      mae_jax train --config configs/croma/large_ssl4eo.py \
              --workdir runs/croma_large --config.data.path=/data/ssl4eo
Hardware: 8 A100 of 80 GB in the paper. The whole batch is contrasted, so microbatches are refused: on fewer chips
          lower train.batch (the learning rate follows it), or set --config.mesh.remat=full.
Expect:   over the best multispectral model before it (paper, abstract, averages over data sets): fine-tuning +1.8,
          linear probe +2.4, kNN +3.5, segmentation +6.4 points.
"""

from _croma_ssl4eo import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, 600, dim=1024, depth=24, heads=16)
