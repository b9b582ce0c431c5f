r"""Hi-End-MAE, ViT-B, patches of 16^3 voxels, CT crops of 96^3: 1000 epochs.

Run:      mae_jax train --config configs/hiendmae/base_p16_ct.py \
              --workdir runs/hiendmae_base_p16 --config.data.path=/data/ct.npy
Hardware: 4 GPUs in the authors' example. On fewer chips raise train.microbatches.
Expect:   no number that we could read at its source; as features for segmentation, better than MAE's
          (docs/methods/hiendmae.md).
"""

from _hiendmae_ct import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return recipe(arg, patch=16, dim=768, depth=12, heads=12, decoder_dim=384, decoder_heads=12)
