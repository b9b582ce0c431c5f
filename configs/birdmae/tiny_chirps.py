"""Bird-MAE on made-up chirps (data.source=chirps, no download): spectrograms of 64 x 32, patch 4.

Run:      mae_jax train --config configs/birdmae/tiny_chirps.py --workdir runs/chirps
          then `python benchmarks/birdmae_prototypes.py runs/chirps`: the prototypical probe with distractors.
Hardware: 2 CPU cores, under two minutes.
Expect:   the probes far above those of random weights; with a second chirp in every clip the prototypical probe at
          least 5 points of average precision above a linear one (docs/methods/birdmae.md has the runs).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            # Positions as they should be: neighbours are few here, and no published weights are read.
            method=dict(
                name="birdmae", spectrogram_size=(64, 32), patch=4, dim=64, depth=2, heads=4, decoder_dim=32,
                decoder_depth=1, decoder_heads=4, mask_ratio=0.75, norm_pix=False, transposed=False,
            ),
            data=dict(source="chirps", length=4096),
            augment=dict(
                crop_scale=None, flip=False, spectrogram_rate=8000, spectrogram_seconds=0.66, spectrogram_mean=-2.9,
                spectrogram_std=3.0,
            ),
            optim=dict(learning_rate=4e-3, warmup=40, weight_decay=0.05),
            train=dict(steps=400, batch=64, seed=0),
            checkpoint=dict(every=400),
            eval=dict(protocols=("linear", "knn"), batch=128, limit=1024),
            log=dict(every=25, pictures_every=400),
        )
    )  # fmt: skip
