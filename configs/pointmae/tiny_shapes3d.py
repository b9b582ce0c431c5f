"""Point-MAE on made-up solids (five families, no download): 256 points, 16 groups of 16.

Run:      mae_jax train --config configs/pointmae/tiny_shapes3d.py --workdir runs/pointmae_shapes3d
Hardware: 2 CPU cores, 2 minutes of processor time.
Expect:   docs/methods/pointmae.md has the runs.
"""

from _pointmae_shapes import DECAY
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="pointmae", points=256, groups=16, group_points=16, dim=64, depth=4, heads=4, decoder_depth=2,
                decoder_heads=4, drop_path=0.0, mask_ratio=0.6,
            ),
            data=dict(source="made_points", count=256, length=1000),
            augment=dict(points_sample="first", points_test_sample="first"),
            optim=dict(
                name="adamw", learning_rate=1e-3, scaling="none", warmup=25, end_rate=1e-6, b2=0.999, weight_decay=0.05,
                decay_rules=DECAY,
            ),
            train=dict(steps=250, batch=32, seed=0),
            checkpoint=dict(every=250),
            eval=dict(protocols=("svm_linear", "knn"), pool="max", raw=False, batch=128, limit=500),
            log=dict(every=25, pictures_every=250),
        )
    )  # fmt: skip
