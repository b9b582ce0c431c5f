r"""GraphMAE on Cora (transductive, public split): the authors' recipe, 1500 epochs.

Run:      mae_jax train --config configs/graphmae/gat_cora.py --workdir runs/gat_cora \
              --config.data.path=/data/planetoid
          The folder holds Planetoid's raw files, ind.cora.x and so on.
Hardware: one GPU with room for a few GB. No time is published, and none was measured here.
Expect:   micro-F1 84.2 +- 0.4 on the 1000 test nodes, 20 seeds (paper, Table 1).
          Their probe trains logistic regression by Adam; ours chooses its strength on a fifth of the labelled nodes.
"""

from _graphmae_nodes import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        dict(source="planetoid", name="cora"),
        steps=1500,
        rate=0.001,
        decay=0.0002,
        sizes=dict(nodes=2708, edges=13264, features=1433),
        dim=512,
        depth=2,
        heads=4,
        mask_ratio=0.5,
        replace_ratio=0.05,
        alpha=3.0,
    )
