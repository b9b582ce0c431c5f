"""SparK on scikit-learn's handwritten digits, drawn at 32 px (bundled, no download): a small ResNet of stride 8.

Run:      mae_jax train --config configs/spark/tiny_digits.py --workdir runs/spark_digits
Hardware: 2 CPU cores, a minute or two (110 s of processor time).
Expect:   the loss falls from 0.95 below 0.2; the linear probe gains at least 5 points over the same encoder at random
          initialisation (docs/methods/spark.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="spark", image_size=32, channels=1, arch="resnet", block="basic", dims=(16, 32, 64),
                depths=(1, 1, 1), stem_stride=2, stem_dim=16, drop_path=0.0, decoder_dim=32, mask_ratio=0.6,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(name="adamw", learning_rate=1e-2, warmup=30, weight_decay=0.05),
            train=dict(steps=300, batch=128, seed=0),
            checkpoint=dict(every=300),
            eval=dict(every=0, protocols=("linear", "knn", "five_shot"), batch=256),
            log=dict(every=25, pictures_every=0),
        )
    )  # fmt: skip
