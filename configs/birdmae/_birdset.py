"""Bird-MAE's recipes (DBD-research-group/Bird-MAE), shared by the model sizes."""

from ml_collections import ConfigDict

CLIPS = 1_700_000  # of 5 s: XCL with at most 500 files of a species and 2 events of a file
SIZES = {
    "base": dict(dim=768, depth=12, heads=12), "large": dict(dim=1024, depth=24, heads=16),
    "huge": dict(dim=1280, depth=32, heads=16),
}  # fmt: skip
SOUND = dict(
    crop_scale=None, flip=False, spectrogram_rate=32_000, spectrogram_seconds=5.0, spectrogram_mean=-7.2,
    spectrogram_std=4.43, spectrogram_padding="minimum", spectrogram_crop="random",
)  # fmt: skip


def method(size: str) -> dict:
    """The section method; the base model hides 80 %, the others 75 %."""
    return dict(
        name="birdmae", spectrogram_size=(512, 128), patch=16, decoder_blocks="plain", decoder_dim=512, decoder_depth=8,
        decoder_heads=16, mask_ratio=0.8 if size == "base" else 0.75, norm_pix=True, **SIZES[size],
    )  # fmt: skip


def pretraining(size: str, arg: str, batch: int) -> ConfigDict:
    """XCL, 150 epochs by default."""
    epochs = int(arg or 150)
    epoch = CLIPS // batch
    steps = epochs * epoch
    mixture = dict(
        spectrogram_where="device", spectrogram_mix=0.3, spectrogram_mix_snr=(5.0, 25.0), spectrogram_mix_clips=3
    )
    return ConfigDict(
        dict(
            method=method(size),
            data=dict(source="audio", workers=16),  # data.path: a tree of files of 5 s or longer
            augment=SOUND | mixture,
            optim=dict(
                learning_rate=1e-4, warmup=round(0.09375 * steps), b1=0.9, b2=0.95, weight_decay=1e-4,
                clip=1.0 if size == "large" else None,
            ),
            train=dict(steps=steps, batch=batch, precision="bfloat16"),
            checkpoint=dict(every=5 * epoch, keep=2),
            eval=dict(every=0, batch=256),
            log=dict(every=50, pictures_every=10 * epoch),
        )
    )  # fmt: skip


def finetuning(size: str) -> ConfigDict:
    """A subset of BirdSet, several labels for 5 s."""
    return ConfigDict(
        dict(
            method=method(size),
            data=dict(source="audio", workers=16),
            augment=SOUND
            | dict(
                spectrogram_where="device", spectrogram_frequency_mask=(50, 0.3), spectrogram_time_mask=(100, 0.3)
            ),
            transfer=dict(
                task="finetune", pool="mean", head_std=2e-5, optimizer="adamw", epochs=30, warmup=0.067 * 30, batch=128,
                learning_rate=6e-4, end_rate=0.0, weight_decay=3e-4, layer_decay=0.75, drop_path=0.1, smoothing=0.0,
                mixup=0.0, cutmix=0.0, erase=0.0, randaugment="", average=0.0,
            ),
            optim=dict(clip=2.0),
            train=dict(precision="bfloat16"),
            eval=dict(batch=256),
        )
    )  # fmt: skip
