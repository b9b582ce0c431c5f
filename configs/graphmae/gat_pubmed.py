r"""GraphMAE on PubMed (transductive, public split): the authors' recipe, 1000 epochs.

Run:      mae_jax train --config configs/graphmae/gat_pubmed.py --workdir runs/gat_pubmed \
              --config.data.path=/data/planetoid
          The folder holds Planetoid's raw files, ind.pubmed.x and so on.
Hardware: one GPU with room for a few GB. No time is published, and none was measured here.
Expect:   micro-F1 81.1 +- 0.4 on the 1000 test nodes, 20 seeds (paper, Table 1).
          Their probe trains logistic regression by Adam; ours chooses its strength on a fifth of the labelled nodes.
"""

from _graphmae_nodes import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        dict(source="planetoid", name="pubmed"),
        steps=1000,
        rate=0.001,
        decay=1e-05,
        sizes=dict(nodes=19717, edges=108365, features=500),
        dim=1024,
        depth=2,
        heads=4,
        mask_ratio=0.75,
        replace_ratio=0.0,
        alpha=3.0,
    )
