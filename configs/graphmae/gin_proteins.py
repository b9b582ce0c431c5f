r"""GraphMAE on PROTEINS (graph classification, TU collection): the authors' recipe, 100 epochs.

Run:      mae_jax train --config configs/graphmae/gin_proteins.py --workdir runs/gin_proteins \
              --config.data.path=/data/TU/PROTEINS
          The folder holds the unpacked text files, PROTEINS_A.txt and so on.
Hardware: one GPU; minutes are to be expected, none were measured here. Devices must divide the batch of 32.
Expect:   75.30 % by an SVM on max-pooled nodes, 10 folds, 5 seeds (paper, Table 2).
          They pretrain on all graphs; here a tenth (data.holdout) is only scored.
"""

from _graphmae_graphs import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        "PROTEINS",
        graphs=1113,
        epochs=100,
        batch=32,
        pool="max",
        rate=0.00015,
        sizes=dict(nodes=620, edges=2720, features=3),
        dim=512,
        depth=3,
        mask_ratio=0.5,
        replace_ratio=0.0,
        alpha=1.0,
    )
