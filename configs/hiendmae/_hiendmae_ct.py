"""Hi-End-MAE's pretraining recipe on CT (FengheTan9/Hi-End-MAE, main.py and its example), shared by the models."""

from ml_collections import ConfigDict

SCANS = 10_000  # about as many as the authors pretrained on
CROPS = 8  # of 96^3 voxels, drawn from each scan
BATCH = 24 * CROPS * 4  # 24 scans on each of 4 GPUs


def recipe(arg: str, **model) -> ConfigDict:
    """The whole config for a model; `arg` is the number of epochs, by default 1000."""
    epochs = int(arg or 1000)
    epoch = SCANS * CROPS // BATCH  # 104 steps
    return ConfigDict(
        dict(
            method=dict(name="hiendmae", volume_size=96, channels=1, mask_ratio=0.75, **model),
            # Scans at 1.5 mm, intensities of -175..250 HU scaled to [0, 1], brought to one size of at least 96^3: an
            # array [n, d, h, w]. Theirs are cut 8 times when they are read; here a scan comes 8 times as often.
            data=dict(source="volumes", path="ct.npy", workers=16),
            augment=dict(
                volume_crop=0.75, volume_flip=0.5, volume_turn=0.3, volume_scale=(0.1, 0.1), volume_shift=(0.1, 0.1)
            ),
            # Absolute rate; their exclusions from weight decay are never read, so everything decays.
            optim=dict(
                name="adamw", learning_rate=1e-4, scaling="none", warmup=10 * epoch, b1=0.9, b2=0.95,
                weight_decay=0.05, decay_rules=((".*", 1.0),),
            ),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=10 * epoch, keep=2),
            mesh=dict(remat="dots"),
            log=dict(every=20, pictures_every=10 * epoch),
        )
    )  # fmt: skip
