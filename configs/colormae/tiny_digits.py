"""ColorMAE on scikit-learn's handwritten digits (8 x 8, embedded, no download): masks of 4 x 4 patches.

Run:      mae_jax train --config configs/colormae/tiny_digits.py --workdir runs/colormae_digits
          (another noise: --config.method.colour=red, blue, purple, white)
Hardware: 2 CPU cores, about a minute.
Expect:   the coarser the noise, the higher the loss at the end: red > green > white > blue
          (docs/methods/colormae.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="colormae", image_size=8, patch=2, channels=1, dim=48, depth=2, heads=4, decoder_dim=32,
                decoder_depth=1, decoder_heads=4, mask_ratio=0.75, norm_pix=False, colour="green", draw="pass",
                patterns=256, pattern_size=32,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(learning_rate=8e-3, warmup=60, weight_decay=0.05),
            train=dict(steps=800, batch=64, seed=0),
            checkpoint=dict(every=800),
            eval=dict(protocols=("linear", "knn", "five_shot"), batch=256),
            log=dict(every=25, pictures_every=800),
        )
    )  # fmt: skip
