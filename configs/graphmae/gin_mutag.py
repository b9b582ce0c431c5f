r"""GraphMAE on MUTAG (graph classification, TU collection): the authors' recipe, 20 epochs.

Run:      mae_jax train --config configs/graphmae/gin_mutag.py --workdir runs/gin_mutag \
              --config.data.path=/data/TU/MUTAG
          The folder holds the unpacked text files, MUTAG_A.txt and so on.
Hardware: one GPU; minutes are to be expected, none were measured here. Devices must divide the batch of 64.
Expect:   88.19 % by an SVM on sum-pooled nodes, 10 folds, 5 seeds (paper, Table 2).
          They pretrain on all graphs; here a tenth (data.holdout) is only scored.
"""

from _graphmae_graphs import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        "MUTAG",
        graphs=188,
        epochs=20,
        batch=64,
        pool="sum",
        rate=0.0005,
        sizes=dict(nodes=28, edges=96, features=7),
        dim=32,
        depth=5,
        mask_ratio=0.75,
        replace_ratio=0.1,
        alpha=2.0,
    )
