r"""GraphMAE on IMDB-BINARY (graph classification, TU collection): the authors' recipe, 60 epochs.

Run:      mae_jax train --config configs/graphmae/gin_imdb_binary.py --workdir runs/gin_imdb_binary \
              --config.data.path=/data/TU/IMDB-BINARY
          The folder holds the unpacked text files, IMDB-BINARY_A.txt and so on.
Hardware: one GPU; minutes are to be expected, none were measured here. Devices must divide the batch of 32.
Expect:   75.52 % by an SVM on mean-pooled nodes, 10 folds, 5 seeds (paper, Table 2).
          They pretrain on all graphs; here a tenth (data.holdout) is only scored.
"""

from _graphmae_graphs import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        "IMDB-BINARY",
        graphs=1000,
        epochs=60,
        batch=32,
        pool="mean",
        rate=0.00015,
        sizes=dict(nodes=136, edges=2640, features=136),
        dim=512,
        depth=2,
        mask_ratio=0.5,
        replace_ratio=0.0,
        alpha=1.0,
    )
