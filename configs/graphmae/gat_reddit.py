r"""GraphMAE on Reddit (inductive): the authors' recipe.

Run:      mae_jax train --config configs/graphmae/gat_reddit.py --workdir runs/gat_reddit \
              --config.data.path=/data/reddit.npz
          Two graphs in one npz, the subgraph of training nodes for training and the whole graph for testing, with
          masks.
Hardware: one GPU with 140 GB: scores and coefficients alone take about 1 GB per array and layer, and a graph's
          messages are cut into blocks. Not run by us.
Expect:   96.01 +- 0.08 (paper, Table 1).
"""

from _graphmae_nodes import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return recipe(
        dict(source="graphs_npz", standardise=True, nodes=232965, edges=114848857),
        steps=500,
        rate=0.001,
        decay=0.0002,
        sizes=dict(nodes=232965, edges=114848857, features=602),
        dim=512,
        depth=4,
        heads=2,
        norm="layer",
        residual=True,
        mask_ratio=0.75,
        replace_ratio=0.15,
        drop_edge=0.5,
        alpha=3.0,
    )
