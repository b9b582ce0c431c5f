"""Point-CMAE's recipes (Amazingren/Point-CMAE, cfgs/), shared by pretraining and fine-tuning."""

from ml_collections import ConfigDict

SHAPES = 41_952  # in ShapeNet-55's training list
BATCH = 128
# One-dimensional parameters and whatever is called a token do not decay; the class token's position does.
DECAY = (
    (r"^projector/", 0.0),  # gets no gradient: torch's optimizer passes it over
    (r"(^|/)(bias|scale|class_token|mask_token)$", 0.0),
    (r"(^|/)(kernel|pos_embed)$", 1.0),
)
MODEL = dict(
    name="pointcmae", points=1024, groups=64, group_points=32, dim=384, depth=12, heads=6, decoder_depth=4,
    decoder_heads=6, drop_path=0.1, mask_ratio=0.6, mask="random", chamfer="l2",
    reconstruction_weight=1000.0, contrast_weight=1.0, pairing="all",
)  # fmt: skip


def pretraining(arg: str = "", **model) -> ConfigDict:
    """300 epochs of ShapeNet-55, or `arg`; the authors' schedule moves once per epoch and lags one behind."""
    epochs, epoch = int(arg or 300), SHAPES // BATCH  # 327 steps
    return ConfigDict(
        dict(
            method=MODEL | model,
            data=dict(source="points", layout="shapenet55", workers=8),  # data.path: the folder of train.txt
            augment=dict(points_sample="random", points_scale=(2 / 3, 3 / 2), points_translate=0.2),
            optim=dict(
                name="adamw", learning_rate=1e-3, scaling="none", warmup=10 * epoch, warmup_start=1e-3, end_rate=1e-6,
                b1=0.9, b2=0.999, weight_decay=0.05, decay_rules=DECAY,
            ),
            train=dict(steps=epochs * epoch, batch=BATCH),
            checkpoint=dict(every=25 * epoch, keep=3),
            eval=dict(pool="max", batch=256),
            log=dict(every=20, pictures_every=25 * epoch),
        )
    )  # fmt: skip


def finetuning(
    points: int, groups: int, *, protocol: str, rate: float, stored: int, candidates: int, **data
) -> ConfigDict:
    """300 epochs in batches of 32, gradients clipped to 10.

    `protocol`: "full", 5e-4; "linear" or "mlp3": the head and the new class token alone are trained, at `rate`.
    """
    own = {} if protocol == "full" else dict(
        trained=(r"(^|/)(class_token|pos_embed)$",), learning_rate=8 * rate,  # per 256
        head="linear" if protocol == "linear" else "mlp3",
    )  # fmt: skip
    return ConfigDict(
        dict(
            method=dict(name="pointcmae", points=points, groups=groups),
            data=dict(source="points", workers=8) | data,
            augment=dict(
                points_stored=stored, points_candidates=candidates, points_sample="first", points_test_sample="first"
            ),
            optim=dict(clip=10.0, warmup_start=2e-3, decay_rules=DECAY),
            transfer=dict(task="finetune", recipe="pointmae", fresh=(r"(^|/)(class_token|pos_embed)$",)) | own,
            eval=dict(batch=64),
        )
    )  # fmt: skip
