r"""MAE, ViT-S/8, the 100,000 unlabelled images of STL-10 at 96 px, 200 epochs (":N" for N).

Run:      mae_jax train --config configs/mae/vit_s8_stl10.py \
              --workdir runs/stl10 --config.data.path=/data/stl10_binary
          mae_jax evaluate --workdir runs/stl10 --config.data.train_split=train
Hardware: one GPU. Estimated, not measured: 200 epochs are 1.6e17 FLOP, 0.7 to 1.4 h on an A100 at 20 to 10 % of its
          peak. Where memory is short raise train.microbatches. Nothing of this config has been run on a GPU.
Expect:   no published number for this recipe, and none measured: hold the table's first column to the columns beside
          it, the same encoder untrained and raw pixels. The settings are the paper's at this size, but for the decoder.
"""

from ml_collections import ConfigDict

IMAGES = 100_000
BATCH = 1024


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    epochs = int(arg or 200)
    epoch = IMAGES // BATCH  # 97 steps
    return ConfigDict(
        dict(
            method=dict(
                name="mae", image_size=96, patch=8, channels=3, dim=384, depth=12, heads=6, decoder_dim=256,
                decoder_depth=4, decoder_heads=8, mask_ratio=0.75, norm_pix=True,
            ),
            data=dict(source="stl10", train_split="unlabeled"),  # data.path: the folder stl10_binary
            augment=dict(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True),
            optim=dict(name="adamw", learning_rate=1.5e-4, warmup=epochs * epoch // 20, b1=0.9, b2=0.95,
                       weight_decay=0.05),
            train=dict(steps=epochs * epoch, batch=BATCH, precision="bfloat16"),
            checkpoint=dict(every=10 * epoch, keep=2),
            eval=dict(every=0, raw=True, batch=1000),  # the training split has no labels: `mae_jax evaluate` after
            log=dict(every=50, pictures_every=20 * epoch),
        )
    )  # fmt: skip
