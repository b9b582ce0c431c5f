"""MAE on random crops of scikit-learn's two photographs (bundled, no download): pictures that are worth looking at.

Run:      mae_jax train --config configs/mae/tiny_photos.py --workdir runs/photos
Hardware: 2 CPU cores, a few minutes.
Expect:   runs/photos/pictures/ shows the held-out right half of both photographs coming into shape. Two images
          teach no features, so there is no probe and no number to expect.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="mae", image_size=64, patch=8, channels=3, dim=128, depth=4, heads=4, decoder_dim=128,
                decoder_depth=2, decoder_heads=4, mask_ratio=0.75, norm_pix=False,
            ),
            data=dict(source="photos", crops=4096),
            augment=dict(crop_scale=(0.02, 0.15), crop_ratio=(3 / 4, 4 / 3), flip=True),
            optim=dict(learning_rate=2e-3, warmup=100, weight_decay=0.05),
            train=dict(steps=2000, batch=64, seed=0),
            checkpoint=dict(every=1000),
            log=dict(every=25, pictures_every=500, pictures=6),
        )
    )  # fmt: skip
