r"""GraphMAE on molecules (2 M of ZINC15): as near as this code comes to the authors' chem/, 100 epochs.

Run:      mae_jax train --config configs/graphmae/gin_zinc.py --workdir runs/gin_zinc \
              --config.data.path=/data/zinc.npz
          One npz (data/sources/graphs.py: GraphsNpz) written with rdkit: a node's features are its atom's type,
          one-hot of 119, and its chirality, one-hot of 4; edges are bonds, both directions.
Hardware: one GPU. Not run by us.
Expect:   no published number applies (theirs: average ROC-AUC 73.8 over eight sets, paper, Table 3). Their network
          also embeds the bonds, has an MLP twice as wide without an inner norm, no activation after the last layer and
          a PReLU before the decoder, predicts the atom's type alone, and is fine-tuned on scaffold splits.
"""

from ml_collections import ConfigDict

MOLECULES, BATCH = 2_000_000, 256


def get_config() -> ConfigDict:
    """The config."""
    sizes = dict(nodes=48, edges=160)
    return ConfigDict(
        dict(
            method=dict(
                name="graphmae", task="graph", features=123, encoder="gin", decoder="gin", dim=300, depth=5,
                norm="batch", activation="relu", drop=0.0, mask_ratio=0.25, replace_ratio=0.0, alpha=1.0, bucket=BATCH,
                **sizes,
            ),
            data=dict(source="graphs_npz", workers=8, **sizes),
            optim=dict(
                name="adam", learning_rate=1e-3, scaling="none", schedule="constant", b2=0.999, weight_decay=0.0,
                decay_rules=((".*", 1.0),),
            ),
            train=dict(steps=100 * (MOLECULES // BATCH), batch=BATCH),
            checkpoint=dict(every=MOLECULES // BATCH),
            log=dict(every=50),
        )
    )  # fmt: skip
