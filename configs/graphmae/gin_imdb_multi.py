r"""GraphMAE on IMDB-MULTI (graph classification, TU collection): the authors' recipe, 50 epochs.

Run:      mae_jax train --config configs/graphmae/gin_imdb_multi.py --workdir runs/gin_imdb_multi \
              --config.data.path=/data/TU/IMDB-MULTI
          The folder holds the unpacked text files, IMDB-MULTI_A.txt and so on.
Hardware: one GPU; minutes are to be expected, none were measured here. Devices must divide the batch of 32.
Expect:   51.63 % by an SVM on mean-pooled nodes, 10 folds, 5 seeds (paper, Table 2).
          They pretrain on all graphs; here a tenth (data.holdout) is only scored.
"""

from _graphmae_graphs import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        "IMDB-MULTI",
        graphs=1500,
        epochs=50,
        batch=32,
        pool="mean",
        rate=0.00015,
        sizes=dict(nodes=89, edges=3024, features=89),
        dim=512,
        depth=3,
        mask_ratio=0.5,
        replace_ratio=0.0,
        alpha=1.0,
    )
