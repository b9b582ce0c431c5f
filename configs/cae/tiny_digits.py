"""CAE on scikit-learn's handwritten digits (8 x 8, embedded, no download), with 16 k-means codes of 2 x 2 pixels.

Run:      mae_jax train --config configs/cae/tiny_digits.py --workdir runs/cae_digits
Hardware: 2 CPU cores, about two minutes (140 s of processor time).
Expect:   codes of hidden patches right in at least 10 points more of the cases than the commonest code alone would be,
          on digits never seen; the alignment loss falls (docs/methods/cae.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="cae", image_size=8, patch=2, channels=1, dim=64, depth=3, heads=4, decoder_dim=64,
                decoder_heads=4, regressor_depth=2, decoder_depth=2, drop_path=0.0, tokenizer="kmeans",
                tokenizer_file="bundled/digits_patch2_k16.npz", vocab=16, masked=8, block_min=2,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(
                learning_rate=2e-3, scaling="none", warmup=60, end_rate=1e-5, b2=0.999, weight_decay=0.05, clip=3.0
            ),
            train=dict(steps=1100, batch=128, seed=0),
            checkpoint=dict(every=1100),
            eval=dict(protocols=("linear", "knn")),
            log=dict(every=50),
        )
    )  # fmt: skip
