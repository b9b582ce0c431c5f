"""MAE on 32-pixel images as github.com/IcarusWizard/MAE does it: a published number for a run of hours, not days."""

from ml_collections import ConfigDict

IMAGES = 50_000
BATCH = 4096


def recipe(arg: str, source: str) -> ConfigDict:
    """The whole config for a source of 32 x 32 images; `arg` is the number of epochs, by default 400.

    Theirs: ViT-T/2, decoder 4 x 192, raw pixels, no augmentation, 2000 epochs of which 200 warm-up, and learned
    positions where we keep MAE's sin-cos table.
    """
    epochs = int(arg or 400)
    epoch = IMAGES // BATCH  # 12 steps
    return ConfigDict(
        dict(
            method=dict(
                name="mae", image_size=32, patch=2, channels=3, dim=192, depth=12, heads=3, decoder_dim=192,
                decoder_depth=4, decoder_heads=3, mask_ratio=0.75, norm_pix=False,
            ),
            data=dict(source=source),  # data.path: the unpacked archive
            augment=dict(crop_scale=None, flip=False, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            optim=dict(name="adamw", learning_rate=1.5e-4, warmup=epochs * epoch // 10, b1=0.9, b2=0.95,
                       weight_decay=0.05),
            train=dict(steps=epochs * epoch, batch=BATCH, microbatches=4, precision="bfloat16"),
            checkpoint=dict(every=20 * epoch, keep=2),
            eval=dict(every=40 * epoch, online=("knn",), protocols=("linear", "knn", "five_shot"), batch=1000),
            log=dict(every=epoch, pictures_every=40 * epoch),
        )
    )  # fmt: skip
