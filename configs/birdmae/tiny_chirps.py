"""Bird-MAE on made-up chirps (data.source=chirps, no download): spectrograms of 64 x 32, patch 4.

Run:      mae_jax train --config configs/birdmae/tiny_chirps.py --workdir runs/chirps
          then `python benchmarks/birdmae_prototypes.py runs/chirps`: the prototypical probe with distractors.
Hardware: one CPU core, two minutes of processor time.
Expect:   docs/methods/birdmae.md has what was measured; the bar, prototypes 5 points of average precision above a
          linear probe where every clip holds two chirps, is not met.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            # Positions as they should be: neighbours are few here, and no published weights are read.
            method=dict(
                name="birdmae", spectrogram_size=(64, 32), patch=4, dim=64, depth=2, heads=2, decoder_dim=32,
                decoder_depth=1, decoder_heads=2, mask_ratio=0.5, norm_pix=False, transposed=False,
            ),
            data=dict(source="chirps", length=4096, noise=0.01),
            # Half the deviation of the data: numbers of variance 1 stand out against the positions.
            augment=dict(
                crop_scale=None, flip=False, spectrogram_rate=8000, spectrogram_seconds=0.66, spectrogram_mean=-4.2,
                spectrogram_std=1.6,
            ),
            optim=dict(learning_rate=2e-2, warmup=40, weight_decay=0.05),
            train=dict(steps=400, batch=64, seed=0),
            checkpoint=dict(every=400),
            eval=dict(protocols=("linear", "knn"), batch=128, limit=1024),
            log=dict(every=25, pictures_every=400),
        )
    )  # fmt: skip
