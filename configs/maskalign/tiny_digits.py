"""MaskAlign on scikit-learn's handwritten digits, taught by the ViT that comes with the package (no download).

Run:      mae_jax train --config configs/maskalign/tiny_digits.py --workdir runs/maskalign_digits
Hardware: 2 CPU cores, about a minute (67 s of processor time).
Expect:   5-shot >= 90 %, 7 points over raw pixels and 35 over random initialisation; on 200 labels
          (benchmarks/few_labels.py) a linear probe 10 points over random and above pixels (docs/methods/maskalign.md).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="maskalign", image_size=8, patch=2, channels=1, dim=64, depth=4, heads=4, drop_path=0.0,
                mask_ratio=0.5, layer_weights="top2", teacher="workdir", teacher_file="bundled/digits_vit.npz",
                teacher_dim=48, teacher_depth=4, teacher_heads=4, teacher_norm_eps=1e-6, teacher_patch=2,
                teacher_size=8,
            ),
            data=dict(source="digits"),
            augment=dict(crop_scale=None, pad=1, flip=False, mean=(0.3,), std=(0.37,)),
            optim=dict(learning_rate=4e-3, warmup=60, weight_decay=0.05),
            train=dict(steps=600, batch=128, seed=0),
            checkpoint=dict(every=600),
            eval=dict(protocols=("linear", "knn", "five_shot"), batch=256),
            log=dict(every=25, pictures_every=600),
        )
    )  # fmt: skip
