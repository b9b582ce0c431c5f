"""CROMA's pretraining recipe on SSL4EO-S12, shared by the model sizes.

The authors' training loop is not public. Image size, sensors and normalisation are those of their model and its README;
epochs, batch, rates, warm-up and augmentation are from memory of the paper and were not read again; betas are torch's
defaults.
"""

from ml_collections import ConfigDict

PAIRS = 1_000_000  # of Sentinel-1 and Sentinel-2 images, about
BATCH = 7200


def recipe(arg: str, epochs: int, **model) -> ConfigDict:
    """The whole config for a model; `arg` is the number of epochs, by default `epochs`."""
    epochs = int(arg or epochs)
    epoch = PAIRS // BATCH  # 138 steps
    return ConfigDict(
        dict(
            method=dict(
                name="croma", image_size=120, patch=8, optical=12, radar=2, decoder_dim=512, decoder_depth=1,
                decoder_heads=8, mask_ratio=0.75, **model,
            ),
            data=dict(source="folder", workers=16),  # data.path: a tree of .npy stacks [h, w, 14]
            # Squares of 60 to 180 of a tile's 264 pixels, brought to 120; both sensors are one stack and share all.
            augment=dict(
                crop_scale=((60 / 264) ** 2, (180 / 264) ** 2), crop_ratio=(1.0, 1.0), flip=True, vertical_flip=True,
                quarter_turns=True, normalise="batch",
            ),
            optim=dict(
                name="adamw", learning_rate=4e-6, scaling="linear", warmup=epochs * epoch // 20, b1=0.9, b2=0.999,
                weight_decay=0.01,
            ),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=5 * epoch, keep=2),
            eval=dict(raw=False),
            mesh=dict(remat="dots"),
            log=dict(every=20, pictures_every=10 * epoch),
        )
    )  # fmt: skip
