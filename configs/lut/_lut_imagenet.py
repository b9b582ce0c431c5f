"""LUT's pretraining recipe on ImageNet-1k (naver-ai/lut, docs/PRETRAIN.md), shared by the model sizes."""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # in ImageNet-1k's training split
BATCH = 4096  # 8 GPUs x 128 x 4 accumulated


def recipe(arg: str, **model) -> ConfigDict:
    """The whole config for an encoder; `arg` is the number of epochs, by default 1600."""
    epochs = int(arg or 1600)
    epoch = IMAGES // BATCH  # 312 steps
    return ConfigDict(
        dict(
            method=dict(
                name="lut", image_size=224, patch=16, channels=3, decoder_dim=512, decoder_depth=8, decoder_heads=16,
                mask_ratio=0.75, norm_pix=True, head_depth=2, predictor_depth=2, head_hidden=4096, head_norm="bn",
                head_activation="relu", bc_weight=0.25, momentum=0.996, **model,
            ),
            data=dict(source="folder", workers=16),  # data.path: a tree with train/ and val/, one folder per class
            # Both views: short side to 224, reflect 4 pixels, crop, flip. The second view's colours besides: jitter,
            # then exactly one of the three that follow.
            augment=dict(
                crop_scale=None, pad=4, flip=True, colour_views=("image_2",), colour_jitter=(0.4, 0.4, 0.2, 0.1),
                colour_jitter_p=0.8, grayscale=1 / 3, solarize=1 / 3, blur=1 / 3, one_of=True,
            ),
            # sqrt: peak = rate * sqrt(batch) / 4, 2.4e-3 at 4096
            optim=dict(
                name="adamw", learning_rate=1.5e-4, scaling="sqrt", warmup=40 * epoch, b1=0.9, b2=0.95,
                weight_decay=0.05,
            ),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=5 * epoch, keep=2),
            eval=dict(every=50 * epoch, online=("knn",), raw=False, batch=1024, limit=50_000),
            log=dict(every=20, pictures_every=10 * epoch),
        )
    )  # fmt: skip
