"""SparK's pretraining recipe on ImageNet-1k (keyu-tian/SparK, pretrain/), shared by the encoders."""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # in ImageNet-1k's training split

RESNET = dict(arch="resnet", block="bottleneck", dims=(256, 512, 1024, 2048), stem_dim=64)


def convnext(dim: int) -> dict:
    """A ConvNeXt of three sizes: depths 3, 3, 27, 3, channels doubling from `dim`."""
    return dict(arch="convnext", depths=(3, 3, 27, 3), dims=(dim, 2 * dim, 4 * dim, 8 * dim), layer_scale=1e-6)


def recipe(
    arg: str, *, size: int = 224, mask_ratio: float = 0.6, batch: int = 4096, rate: float = 2e-4, **model
) -> ConfigDict:
    """The whole config for an encoder; `arg` is the number of epochs, by default 1600. `rate` is per 256 images."""
    epochs = int(arg or 1600)
    epoch = -(-IMAGES // batch)  # their sampler fills the last batch up
    return ConfigDict(
        dict(
            method=dict(
                name="spark", image_size=size, channels=3, stem_stride=4, decoder_dim=768, mask_ratio=mask_ratio,
                **model,
            ),
            data=dict(source="folder", workers=16),  # data.path: a tree with train/ and val/, one folder per class
            augment=dict(crop_scale=(0.67, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True),
            optim=dict(
                name="lamb", learning_rate=rate, scaling="linear", schedule="cosine_inclusive", warmup=40 * epoch,
                warmup_start=0.005, end_share=0.001, b1=0.9, b2=0.999 if model["arch"] == "convnext" else 0.95,
                eps=1e-6, weight_decay=0.04, weight_decay_end=0.2, clip=5.0,
                # Where nothing decays there is no trust ratio either; mask tokens are such.
                decay_rules=((r"(^|/)(bias|scale|gamma|mask_token)$", 0.0), (r"(^|/)kernel$", 1.0)),
            ),
            train=dict(steps=epochs * epoch, batch=batch, precision="float32"),
            checkpoint=dict(every=5 * epoch, keep=2),
            eval=dict(every=50 * epoch, online=("knn",), raw=False, batch=1024, limit=50_000),
            log=dict(every=20, pictures_every=10 * epoch),
        )
    )  # fmt: skip
