"""Hi-End-MAE on made-up volumes of 16^3 voxels (ellipsoids on a smooth gradient, no download).

Run:      mae_jax train --config configs/hiendmae/tiny_volumes.py --workdir runs/hiendmae
Hardware: 2 CPU cores, about a minute.
Expect:   the loss, 1 where nothing is predicted, ends near 0.6 (docs/methods/hiendmae.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="hiendmae", volume_size=16, patch=4, channels=1, dim=48, depth=12, heads=4, decoder_dim=24,
                decoder_depth=2, decoder_heads=4, mask_ratio=0.75,
            ),
            data=dict(source="volumes", size=16, length=4096),
            optim=dict(learning_rate=2e-3, scaling="none", warmup=40, weight_decay=0.05, decay_rules=((".*", 1.0),)),
            train=dict(steps=400, batch=32, seed=0),
            checkpoint=dict(every=400),
            log=dict(every=20),
        )
    )  # fmt: skip
