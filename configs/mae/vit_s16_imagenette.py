r"""MAE, ViT-S/16, Imagenette at 224 px, 200 epochs (":N" for N).

Run:      mae_jax train --config configs/mae/vit_s16_imagenette.py \
              --workdir runs/imagenette --config.data.path=/data/imagenette2-320
Hardware: one GPU and about 8 CPU cores. Estimated, not measured: 200 epochs are 7.2e16 FLOP, 0.3 to 0.6 h on an A100
          at 20 to 10 % of its peak. Nothing of this config has been run on a GPU.
Expect:   published by stable-pretraining (benchmarks/imagenet10/RESULTS.md), not measured here: after 200 epochs
          kNN 72.1 % (k = 20) and linear probe 84.1 %, the best values of their online probes (ViT-S/16, batch 128 or
          256). Their settings for ViT-S are not in the repository any more; ours follow their ViT-B's.
"""

from ml_collections import ConfigDict

IMAGES = 9_469
BATCH = 256


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    epochs = int(arg or 200)
    epoch = IMAGES // BATCH  # 36 steps
    return ConfigDict(
        dict(
            method=dict(
                name="mae", image_size=224, patch=16, channels=3, dim=384, depth=12, heads=6, decoder_dim=512,
                decoder_depth=8, decoder_heads=16, mask_ratio=0.75, norm_pix=True,
            ),
            data=dict(source="imagenette"),  # data.path: the folder with train/ and val/
            augment=dict(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True),
            # 5e-4 at batch 256 is theirs (mae-vit-base.py); the paper's 1.5e-4 is for 40 times as many steps
            optim=dict(name="adamw", learning_rate=5e-4, warmup=epochs * epoch // 15, b1=0.9, b2=0.95,
                       weight_decay=0.05, end_rate=5e-5),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=10 * epoch, keep=2),
            eval=dict(every=20 * epoch, online=("knn",), protocols=("linear", "knn", "five_shot"), raw=False,
                      batch=256),
            log=dict(every=epoch, pictures_every=20 * epoch),
        )
    )  # fmt: skip
