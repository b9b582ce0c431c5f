r"""GraphMAE on NCI1 (graph classification, TU collection): the authors' recipe, 300 epochs.

Run:      mae_jax train --config configs/graphmae/gin_nci1.py --workdir runs/gin_nci1 \
              --config.data.path=/data/TU/NCI1
          The folder holds the unpacked text files, NCI1_A.txt and so on.
Hardware: one GPU; minutes are to be expected, none were measured here. Devices must divide the batch of 16.
Expect:   80.40 % by an SVM on mean-pooled nodes, 10 folds, 5 seeds (paper, Table 2).
          Their file means to pool by the sum and, by a misspelt key, pools by the mean: so here.
          They pretrain on all graphs; here a tenth (data.holdout) is only scored.
"""

from _graphmae_graphs import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        "NCI1",
        graphs=4110,
        epochs=300,
        batch=16,
        pool="mean",
        rate=0.001,
        sizes=dict(nodes=111, edges=352, features=37),
        dim=512,
        depth=2,
        mask_ratio=0.25,
        replace_ratio=0.1,
        alpha=2.0,
        cosine=True,
        decay=5e-4,
    )
