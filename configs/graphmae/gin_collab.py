r"""GraphMAE on COLLAB (graph classification, TU collection): the authors' recipe, 20 epochs.

Run:      mae_jax train --config configs/graphmae/gin_collab.py --workdir runs/gin_collab \
              --config.data.path=/data/TU/COLLAB
          The folder holds the unpacked text files, COLLAB_A.txt and so on.
Hardware: one GPU; minutes are to be expected, none were measured here. Devices must divide the batch of 32.
Expect:   80.32 % by an SVM on max-pooled nodes, 10 folds, 5 seeds (paper, Table 2).
          They pretrain on all graphs; here a tenth (data.holdout) is only scored.
"""

from _graphmae_graphs import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        "COLLAB",
        graphs=5000,
        epochs=20,
        batch=32,
        pool="max",
        rate=0.00015,
        sizes=dict(nodes=492, edges=80736, features=401),
        dim=256,
        depth=2,
        activation="relu",
        mask_ratio=0.75,
        replace_ratio=0.0,
        alpha=1.0,
        cosine=True,
    )
