"""MAE on scikit-learn's handwritten digits (8 x 8, embedded, no download): the whole pipeline in five minutes.

Run:      mae_jax train --config configs/mae/tiny_digits.py --workdir runs/digits
Hardware: 2 CPU cores, about four minutes.
Expect:   linear probe >= 96.5 %, at least 6 points over the same encoder at random initialisation; 5-shot at least
          6 points over raw pixels (docs/methods/mae.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="mae", image_size=8, patch=2, channels=1, dim=96, depth=4, heads=4, decoder_dim=48,
                decoder_depth=4, decoder_heads=4, mask_ratio=0.625, norm_pix=False,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(learning_rate=3e-3, warmup=100, weight_decay=0.05),
            train=dict(steps=1500, batch=256, seed=0),
            checkpoint=dict(every=500),
            eval=dict(every=250, online=("knn",), protocols=("linear", "knn", "five_shot"), batch=256),
            log=dict(every=25, pictures_every=500),
        )
    )  # fmt: skip
