r"""Hi-End-MAE, 12 blocks of 1536, patches of 12^3 voxels (the released weights), CT crops of 96^3: 1000 epochs.

Run:      mae_jax train --config configs/hiendmae/large_p12_ct.py \
              --workdir runs/hiendmae_large_p12 --config.data.path=/data/ct.npy
Hardware: 4 GPUs in the authors' example. On fewer chips raise train.microbatches.
Expect:   no number that we could read at its source; as features for segmentation, better than MAE's
          (docs/methods/hiendmae.md).
"""

from _hiendmae_ct import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, patch=12, dim=1536, depth=12, heads=16, decoder_dim=528, decoder_heads=16)
