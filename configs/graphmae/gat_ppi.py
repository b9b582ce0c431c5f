r"""GraphMAE on PPI (inductive, 20 training graphs): the authors' recipe, 1000 epochs.

Run:      mae_jax train --config configs/graphmae/gat_ppi.py --workdir runs/gat_ppi \
              --config.data.path=/data/ppi.npz
          One npz of the 24 graphs, with train and test masks of graphs. A step takes one
          of them, whole on every device (theirs: two); it holds no labels, since a node has 121 at once.
Hardware: one GPU with 40 GB. Not run by us.
Expect:   micro-F1 74.50 +- 0.29 (paper, Table 1), by a probe for many labels a node,
          which is not here.
"""

from _graphmae_nodes import recipe
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    config = recipe(
        dict(source="graphs_npz", nodes=3480, edges=112000),
        steps=20_000,
        rate=0.0001,
        decay=0.0,
        sizes=dict(nodes=3480, edges=112000, features=50),
        dim=1024,
        depth=3,
        heads=4,
        norm="layer",
        residual=True,
        mask_ratio=0.5,
        replace_ratio=0.1,
        alpha=3.0,
    )
    config.eval.update(every=0, online=(), protocols=())
    return config
