r"""GraphMAE on ogbn-arxiv (transductive): the authors' recipe.

Run:      mae_jax train --config configs/graphmae/gat_arxiv.py --workdir runs/gat_arxiv \
              --config.data.path=/data/arxiv.npz
          One npz (data/sources/graphs.py: GraphsNpz) of OGB's graph, both directions of every edge, its labels and
          splits.
Hardware: one GPU with 80 GB: messages of 2.5 M edges at width 1024 are cut into blocks of 4 GB. Not run by us.
Expect:   71.75 +- 0.17 % of the test nodes, 20 seeds (paper, Table 1).
"""

from _graphmae_nodes import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        dict(source="graphs_npz", standardise=True),
        steps=1000,
        rate=0.001,
        decay=0.0,
        sizes=dict(nodes=169343, edges=2484941, features=128),
        dim=1024,
        depth=3,
        heads=4,
        norm="layer",
        mask_ratio=0.5,
        replace_ratio=0.0,
        drop_edge=0.5,
        alpha=3.0,
    )
