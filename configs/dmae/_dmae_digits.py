"""What teacher and student on digits share."""

from typing import Any

from ml_collections import ConfigDict


def digits(epochs: int, **method: Any) -> ConfigDict:
    """The whole config; 45 steps of 32 are an epoch."""
    steps = 45 * epochs
    return ConfigDict(
        dict(
            method=dict(image_size=8, patch=2, channels=1, mask_ratio=0.625, norm_pix=False, **method),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(learning_rate=1.2e-2, warmup=steps // 10, weight_decay=0.05),
            train=dict(steps=steps, batch=32, seed=0),
            checkpoint=dict(every=steps),
            eval=dict(protocols=("linear", "knn", "five_shot"), batch=256),
            log=dict(every=25, pictures_every=steps),
        )
    )  # fmt: skip
