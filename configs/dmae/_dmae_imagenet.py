"""DMAE's pretraining recipe on ImageNet-1k (UCSC-VLAA/DMAE), shared by students and teachers."""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # in ImageNet-1k's training split
BATCH = 4096  # 8 GPUs x 128 x 4 accumulated

TINY, SMALL = dict(dim=192, depth=12, heads=3), dict(dim=384, depth=12, heads=6)
BASE, LARGE = dict(dim=768, depth=12, heads=12), dict(dim=1024, depth=24, heads=16)


def recipe(arg: str, student: dict, teacher: dict, file: str) -> ConfigDict:
    """The whole config; `arg` is the number of epochs, by default 100.

    The pair is the authors': block 9 of the student's 12, and three quarters of the teacher's depth.
    """
    epochs = int(arg or 100)
    epoch = IMAGES // BATCH  # 312 steps
    return ConfigDict(
        dict(
            method=dict(
                name="dmae", image_size=224, patch=16, channels=3, decoder_dim=512, decoder_depth=8, decoder_heads=16,
                mask_ratio=0.75, norm_pix=False, head="linear", distance="l1",
                pairs=((8, teacher["depth"] * 3 // 4 - 1),), teacher_file=file, **student,
                **{f"teacher_{key}": value for key, value in teacher.items()},
            ),
            data=dict(source="folder", workers=16),  # data.path: a tree with train/ and val/, one folder per class
            augment=dict(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True),
            optim=dict(name="adamw", learning_rate=1.5e-4, warmup=20 * epoch, b1=0.9, b2=0.95, weight_decay=0.05),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=5 * epoch, keep=2),
            eval=dict(every=25 * epoch, online=("knn",), raw=False, batch=1024, limit=50_000),
            log=dict(every=20, pictures_every=10 * epoch),
        )
    )  # fmt: skip
