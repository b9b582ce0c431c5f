"""Fine-tuning on ImageNet-1k (facebookresearch/mae, FINETUNE.md), shared by the model sizes."""

from ml_collections import ConfigDict


def recipe(name: str, arg: str, **model) -> ConfigDict:
    """The whole config but for what transfer.recipe says; `arg` is the image size, by default 224."""
    return ConfigDict(
        dict(
            method=dict(
                name="mae", image_size=int(arg or 224), channels=3, decoder_dim=512, decoder_depth=8,
                decoder_heads=16, norm_pix=True, positions="learned", **model,
            ),
            data=dict(source="folder", workers=16),  # data.path: a tree with train/ and val/, one folder per class
            transfer=dict(task="finetune", recipe=name),
            train=dict(precision="bfloat16"),
            eval=dict(batch=1024),
        )
    )  # fmt: skip
