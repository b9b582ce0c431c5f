"""CAE's pretraining recipe on ImageNet-1k (Atten4Vis/CAE, scripts/cae_*.sh), shared by the model sizes."""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # in ImageNet-1k's training split
BATCH = 2048
WARMUP = {300: 10, 800: 20, 1600: 40}  # epochs by length


def recipe(arg: str, default: int, **model) -> ConfigDict:
    """The whole config for an encoder; `arg` is the number of epochs, 300, 800 or 1600."""
    epochs = int(arg or default)
    if epochs not in WARMUP:
        raise ValueError(f"published are {', '.join(map(str, WARMUP))} epochs")
    epoch = IMAGES // BATCH  # 625 steps
    return ConfigDict(
        dict(
            method=dict(
                name="cae", image_size=224, patch=16, channels=3, regressor_depth=4, decoder_depth=4, decoder_heads=12,
                masked=98, block_min=16, drop_path=0.1, align_weight=2.0, tokenizer="dalle", vocab=8192,
                tokenizer_file="weights/dall_e/encoder.pkl", **model,
            ),
            data=dict(source="folder", workers=16),  # data.path: a tree with train/ and val/, one folder per class
            augment=dict(crop_scale=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True),
            optim=dict(
                name="adamw", learning_rate=1.5e-3, scaling="none", warmup=WARMUP[epochs] * epoch, end_rate=1e-5,
                b1=0.9, b2=0.999, weight_decay=0.05, clip=3.0,
            ),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=5 * epoch, keep=2),
            eval=dict(every=50 * epoch, online=("knn",), raw=False, batch=1024, limit=50_000),
            log=dict(every=20, pictures_every=10 * epoch),
        )
    )  # fmt: skip
