"""MaskAlign's pretraining recipe on ImageNet-1k (OpenDriveLab/maskalign, README), shared by students and teachers."""

from ml_collections import ConfigDict

IMAGES = 1_281_167  # in ImageNet-1k's training split
BATCH = 1024

BASE, LARGE = dict(dim=768, depth=12, heads=12, drop_path=0.1), dict(dim=1024, depth=24, heads=16, drop_path=0.2)
CLIP = dict(
    teacher="clip", teacher_norm_eps=1e-5, teacher_mean=(0.48145466, 0.4578275, 0.40821073),
    teacher_std=(0.26862954, 0.26130258, 0.27577711),
)  # fmt: skip
CLIP_B16 = CLIP | dict(
    teacher_file="teachers/clip-vit-base-patch16/pytorch_model.bin", teacher_dim=768, teacher_depth=12,
    teacher_heads=12, teacher_patch=16,
)  # fmt: skip
# 196 px of patch 14 are the student's 14 x 14 places; the position table is resampled from 16 x 16.
CLIP_L14 = CLIP | dict(
    teacher_file="teachers/clip-vit-large-patch14/pytorch_model.bin", teacher_dim=1024, teacher_depth=24,
    teacher_heads=16, teacher_patch=14, teacher_input=196,
)  # fmt: skip
DINO_B16 = dict(
    teacher="dino", teacher_file="teachers/dino-vitb16/pytorch_model.bin", teacher_norm_eps=1e-12, teacher_dim=768,
    teacher_depth=12, teacher_heads=12, teacher_patch=16,
)  # fmt: skip


def recipe(arg: str, student: dict, teacher: dict, fusion: str = "linear") -> ConfigDict:
    """The whole config; `arg` is the number of epochs, by default 200."""
    epochs = int(arg or 200)
    epoch = IMAGES // BATCH  # 1251 steps
    return ConfigDict(
        dict(
            method=dict(
                name="maskalign", image_size=224, patch=16, channels=3, mask_ratio=0.7, masking="attention",
                teacher_size=224, target_norm="whiten", distance="smoothl1", layer_weights="top5", fusion=fusion,
                head="linear", **student, **teacher,
            ),
            data=dict(source="folder", workers=16),  # data.path: a tree with train/ and val/, one folder per class
            augment=dict(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True),
            optim=dict(
                name="adamw", learning_rate=1.5e-4, warmup=20 * epoch, end_rate=1e-5, b1=0.9, b2=0.95,
                weight_decay=0.05,
            ),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=5 * epoch, keep=2),
            eval=dict(every=25 * epoch, online=("knn",), raw=False, batch=1024, limit=50_000),
            log=dict(every=20, pictures_every=10 * epoch),
        )
    )  # fmt: skip
