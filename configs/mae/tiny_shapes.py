"""MAE on made-up scenes of textured shapes (no download): the encoder for configs/mae/tiny_segment.py.

Run:      mae_jax train --config configs/mae/tiny_shapes.py --workdir runs/shapes
Hardware: 2 CPU cores (600 steps; only timed on a machine under load, so no figure).
Expect:   docs/segmentation.md has the loss and what a segmentation head makes of the encoder.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="mae", image_size=64, patch=8, channels=3, dim=96, depth=4, heads=4, decoder_dim=64,
                decoder_depth=1, decoder_heads=4, mask_ratio=0.6, norm_pix=True,
            ),
            data=dict(source="shapes", length=8192),
            augment=dict(crop_scale=None, flip=True),
            optim=dict(learning_rate=8e-3, warmup=60, weight_decay=0.05),
            train=dict(steps=600, batch=32, seed=0),
            checkpoint=dict(every=300),
            log=dict(every=50, pictures_every=0, pictures=6),
        )
    )  # fmt: skip
