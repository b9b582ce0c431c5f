"""ColorMAE's pretraining recipe on ImageNet-1k (carlosh93/ColorMAE, configs/), shared by the model sizes."""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # in ImageNet-1k's training split
BATCH = 4096  # 8 GPUs x 512


def recipe(arg: str, **model) -> ConfigDict:
    """The whole config for an encoder; `arg` is the number of epochs, by default 300."""
    epochs = int(arg or 300)
    epoch = IMAGES // BATCH  # 312 steps
    return ConfigDict(
        dict(
            method=dict(
                name="colormae", image_size=224, patch=16, channels=3, decoder_dim=512, decoder_depth=8,
                decoder_heads=16, mask_ratio=0.75, norm_pix=True, colour="green", draw="pass", **model,
            ),
            data=dict(source="folder", workers=16),  # data.path: a tree with train/ and val/, one folder per class
            augment=dict(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True),
            # mmpretrain leaves mask token and class token undecayed, which MAE's code does not.
            optim=dict(
                name="adamw", learning_rate=1.5e-4, warmup=40 * epoch, warmup_start=1e-4, b1=0.9, b2=0.95,
                weight_decay=0.05, decay_rules=((r"(bias|scale|class_token|mask_token|pos_embed)$", 0.0), (r"", 1.0)),
            ),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=5 * epoch, keep=2),
            eval=dict(every=50 * epoch, online=("knn",), raw=False, batch=1024, limit=50_000),
            log=dict(every=20, pictures_every=10 * epoch),
        )
    )  # fmt: skip
