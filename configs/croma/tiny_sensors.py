"""CROMA on handwritten digits as two made-up sensors see them (24 px, 12 optical and 2 radar channels, no download).

Run:      mae_jax train --config configs/croma/tiny_sensors.py --workdir runs/croma
Hardware: 2 CPU cores, about two minutes.
Expect:   linear probe 7 to 12 points over a random encoder (docs/methods/croma.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="croma", image_size=24, patch=4, optical=12, radar=2, dim=64, depth=4, heads=4, decoder_dim=32,
                decoder_depth=1, decoder_heads=4, mask_ratio=0.75,
            ),
            data=dict(source="sensors", size=24, optical=12),
            augment=dict(crop_scale=None, flip=False, normalise="batch"),
            optim=dict(learning_rate=1e-3, scaling="none", warmup=50, weight_decay=0.01),
            train=dict(steps=1200, batch=32, seed=0),
            checkpoint=dict(every=1200),
            eval=dict(protocols=("linear", "knn", "five_shot"), batch=64),
            log=dict(every=40),
        )
    )  # fmt: skip
