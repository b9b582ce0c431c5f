r"""GraphMAE on REDDIT-BINARY (graph classification, TU collection): the authors' recipe, 100 epochs.

Run:      mae_jax train --config configs/graphmae/gin_reddit_binary.py --workdir runs/gin_reddit_binary \
              --config.data.path=/data/TU/REDDIT-BINARY
          The folder holds the unpacked text files, REDDIT-BINARY_A.txt and so on.
Hardware: one GPU; minutes are to be expected, none were measured here. Devices must divide the batch of 8.
Expect:   88.01 % by an SVM on sum-pooled nodes, 10 folds, 5 seeds (paper, Table 2).
          They pretrain on all graphs; here a tenth (data.holdout) is only scored.
"""

from _graphmae_graphs import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        "REDDIT-BINARY",
        graphs=2000,
        epochs=100,
        batch=8,
        pool="sum",
        rate=0.00015,
        sizes=dict(nodes=3782, edges=11968, features=401),
        dim=512,
        depth=2,
        norm="layer",
        mask_ratio=0.75,
        replace_ratio=0.1,
        alpha=2.0,
        cosine=True,
    )
