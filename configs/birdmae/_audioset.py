"""Audio-MAE's recipes (facebookresearch/AudioMAE), shared by the model sizes and data sets."""

from ml_collections import ConfigDict

CLIPS = 2_000_000  # of AudioSet-2M; copies differ in how many could still be downloaded
SIZES = {"b": dict(dim=768, depth=12, heads=12), "l": dict(dim=1024, depth=24, heads=16)}
# {data set: (frames, seconds, mean, std)}; all at 16 kHz with 128 mel bins
SETS = {
    "audioset": (1024, 10.0, -4.2677393, 4.5689974), "esc50": (512, 5.0, -6.6268077, 5.358466),
    "speechcommands": (128, 1.0, -6.845978, 5.5654526),
}  # fmt: skip


def sound(name: str) -> dict:
    """The section augment of a data set: the front end, nothing random."""
    _, seconds, mean, std = SETS[name]
    return dict(
        crop_scale=None, flip=False, spectrogram_rate=16_000, spectrogram_seconds=seconds, spectrogram_mean=mean,
        spectrogram_std=std, spectrogram_padding="zero",
    )  # fmt: skip


def method(size: str, name: str = "audioset") -> dict:
    """The section method; the windowed decoder of the released weights."""
    return dict(
        name="birdmae", spectrogram_size=(SETS[name][0], 128), patch=16, decoder_blocks="window", decoder_dim=512,
        decoder_depth=16, decoder_heads=16, mask_ratio=0.8, norm_pix=True, **SIZES[size],
    )  # fmt: skip


def pretraining(size: str, arg: str) -> ConfigDict:
    """AudioSet-2M, 33 epochs by default."""
    epochs, batch = int(arg or 33), 512  # 64 GPUs x 8
    epoch = CLIPS // batch
    return ConfigDict(
        dict(
            method=method(size),
            # data.path with data.table="{split}.json" and data.vocabulary, or any tree of files (docs/audio.md)
            data=dict(source="audio", workers=16),
            augment=sound("audioset") | dict(spectrogram_shift="published", spectrogram_gain=10.0),
            optim=dict(learning_rate=2e-4, warmup=3 * epoch, b1=0.9, b2=0.95, weight_decay=1e-4),
            train=dict(steps=epochs * epoch, batch=batch, precision="bfloat16"),
            checkpoint=dict(every=epoch, keep=2),
            eval=dict(every=0, batch=512),
            log=dict(every=50, pictures_every=5 * epoch),
        )
    )


def finetuning(size: str, name: str, *, drop: float = 0.0, augment: dict | None = None, **transfer) -> ConfigDict:
    """A data set; `transfer` and `augment` are laid over what all have."""
    recipe = dict(
        pool="mean", head_std=2e-5, optimizer="adamw", end_rate=1e-6, layer_decay=0.75, drop_path=0.1, mixup=0.0,
        cutmix=0.0, erase=0.0, randaugment="", average=0.0,
    )  # fmt: skip
    return ConfigDict(
        dict(
            method=method(size, name) | dict(drop_time=drop, drop_mel=drop),
            data=dict(source="audio", workers=16),
            augment=sound(name) | (augment or {}),
            transfer=dict(task="finetune", **(recipe | transfer)),
            train=dict(precision="bfloat16"),
            eval=dict(batch=256),
        )
    )
