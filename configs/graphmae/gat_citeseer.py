r"""GraphMAE on Citeseer (transductive, public split): the authors' recipe, 300 epochs.

Run:      mae_jax train --config configs/graphmae/gat_citeseer.py --workdir runs/gat_citeseer \
              --config.data.path=/data/planetoid
          The folder holds Planetoid's raw files, ind.citeseer.x and so on.
Hardware: one GPU with room for a few GB. No time is published, and none was measured here.
Expect:   micro-F1 73.4 +- 0.4 on the 1000 test nodes, 20 seeds (paper, Table 1).
          Their probe trains logistic regression by Adam; ours chooses its strength on a fifth of the labelled nodes.
"""

from _graphmae_nodes import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        dict(source="planetoid", name="citeseer"),
        steps=300,
        rate=0.001,
        decay=2e-05,
        sizes=dict(nodes=3327, edges=12431, features=3703),
        dim=512,
        depth=2,
        heads=2,
        mask_ratio=0.5,
        replace_ratio=0.1,
        alpha=1.0,
    )
