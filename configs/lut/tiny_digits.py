"""LUT on scikit-learn's handwritten digits (8 x 8, embedded, no download): two noisy views.

Run:      mae_jax train --config configs/lut/tiny_digits.py --workdir runs/lut_digits
          (plain MAE on the same data: --config.method.bc_weight=0)
Hardware: 2 CPU cores, 100 s of processor time.
Expect:   linear probe above plain MAE's and above 95 %, cosine of a part's pooled feature with the whole's above 0.8
          (docs/methods/lut.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="lut", image_size=8, patch=2, channels=1, dim=64, depth=2, heads=4, decoder_dim=32,
                decoder_depth=2, decoder_heads=4, mask_ratio=0.625, norm_pix=False, head_hidden=256, momentum=0.99,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, noise=0.1, mean=(0.3,), std=(0.37,)),
            optim=dict(learning_rate=1e-3, scaling="sqrt", warmup=100, weight_decay=0.05),
            train=dict(steps=1200, batch=128, seed=0),
            checkpoint=dict(every=1200),
            eval=dict(protocols=("linear", "knn", "five_shot"), batch=256),
            log=dict(every=25, pictures_every=1200),
        )
    )  # fmt: skip
