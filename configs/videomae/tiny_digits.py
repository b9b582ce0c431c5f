"""VideoMAE on handwritten digits that move over a canvas of 16 x 16 pixels, 8 frames (embedded, no download).

Run:      mae_jax train --config configs/videomae/tiny_digits.py --workdir runs/videomae_digits
          (control: --config.method.masking=slot, other places hidden in every time slot)
Hardware: 2 CPU cores, about two minutes.
Expect:   the loss, in pixels of [0, 1], below 0.034 (the mean clip has 0.047); docs/methods/videomae.md has
          the runs, and what the probes say.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(
                name="videomae", frames=8, image_size=16, tubelet=2, patch=4, dim=32, depth=2, heads=2, decoder_dim=32,
                decoder_depth=1, decoder_heads=2, mask_ratio=0.75, norm_pix=False,
            ),
            data=dict(source="moving_digits"),
            augment=dict(video_stride=1, video_crop="centre", eval_crop=1.0),
            optim=dict(learning_rate=4e-3, scaling="none", warmup=200, weight_decay=0.05),
            train=dict(steps=5000, batch=32, seed=0),
            checkpoint=dict(every=5000),
            eval=dict(protocols=("linear", "knn"), pool="mean", batch=256),
            log=dict(every=50, pictures_every=5000),
        )
    )  # fmt: skip
