"""my_method on scikit-learn's handwritten digits (8 x 8, embedded, no download).

Run:      mae_jax train --config CONFIG --workdir runs/my_method
Hardware: 2 CPU cores, about a minute.
Expect:   a loss that falls; the table at the end compares with the same encoder at random initialisation.
"""

from pathlib import Path

from ml_collections import ConfigDict

METHOD = str(Path(__file__).resolve().parents[1] / "my_method.py")


def get_config() -> ConfigDict:
    """The config. `mae_jax list` shows the keys of data sources, mae_jax/schema.py documents all others."""
    return ConfigDict(
        dict(
            method=dict(
                name=METHOD, image_size=8, patch=2, channels=1, dim=64, depth=3, heads=4, decoder_dim=32,
                decoder_depth=2, decoder_heads=4, mask_ratio=0.625,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(learning_rate=3e-3, warmup=50, weight_decay=0.05),
            train=dict(steps=500, batch=256, seed=0),
            checkpoint=dict(every=250),
            eval=dict(every=250, online=("knn",), protocols=("linear", "knn", "five_shot"), batch=256),
            log=dict(every=25, pictures_every=250),
        )
    )  # fmt: skip
