"""VideoMAE on handwritten digits that move over a canvas of 16 x 16 pixels, 8 frames (embedded, no download).

Run:      mae_jax train --config configs/videomae/tiny_digits.py --workdir runs/videomae_digits
          (control: --config.method.masking=slot, other places hidden in every time slot)
Hardware: 2 CPU cores, under two minutes.
Expect:   the loss (1: predicts the mean) below 0.6; linear probe well above that of a random encoder
          (docs/methods/videomae.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="videomae", frames=8, image_size=16, tubelet=2, patch=4, dim=64, depth=4, heads=4,
                decoder_dim=32, decoder_depth=2, decoder_heads=4, mask_ratio=0.75,
            ),
            data=dict(source="moving_digits"),
            augment=dict(video_stride=1, video_crop="centre", eval_crop=1.0),
            optim=dict(learning_rate=1e-3, scaling="none", warmup=100, weight_decay=0.05),
            train=dict(steps=1000, batch=64, seed=0),
            checkpoint=dict(every=1000),
            eval=dict(protocols=("linear", "knn"), pool="mean", batch=256),
            log=dict(every=25, pictures_every=1000),
        )
    )  # fmt: skip
