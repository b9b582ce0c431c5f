"""GraphMAE on a made-up graph of four communities (400 nodes, 64 binary features, no download): under a minute.

Run:      mae_jax train --config configs/graphmae/tiny_blocks.py --workdir runs/blocks
Hardware: 2 CPU cores, under a minute.
Expect:   linear probe on 40 labelled nodes >= 92 % of the other 360, at least 3 points over the same encoder at random
          initialisation and far over the raw features (docs/methods/graphmae.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="graphmae", nodes=400, edges=3500, features=64, encoder="gat", decoder="gat", dim=64, depth=2,
                heads=4, mask_ratio=0.5, replace_ratio=0.05, alpha=2.0,
            ),
            data=dict(source="sbm", edges=3500),
            optim=dict(
                name="adam", learning_rate=2e-3, scaling="none", schedule="constant", b2=0.999, weight_decay=0.0,
                decay_rules=((".*", 1.0),),
            ),
            train=dict(steps=300, batch=1, seed=0),
            checkpoint=dict(every=300),
            eval=dict(every=100, online=("linear",), protocols=("linear", "knn"), pool="tokens", batch=1),
            log=dict(every=25),
        )
    )  # fmt: skip
