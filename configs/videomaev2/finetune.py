r"""VideoMAE V2 trained on labels: ViT-g after pretraining on Kinetics-710's (post-pretraining), the published recipe.

":SIZE,DATA" is another: b, h, g on k710; b, l, g on k400; b, h, g on ssv2; ":g,k400,k710", ":g,ucf101,k710" and
":g,hmdb51,k710" start from the weights that k710 gave.

Run:      mae_jax finetune --config configs/videomaev2/finetune.py --workdir runs/videomaev2_g14 \
              --out runs/videomaev2_g14_k710 --config.data.path=/data/k710
Hardware: 96 videos in two views on 32 GPUs for ViT-g. On fewer chips raise train.microbatches.
Expect:   ViT-g (5 x 3 views): K710 83.8, K400 87.2 directly and 88.4 from K710, UCF101 99.6, HMDB51 88.1 %; SSv2
          (2 x 3) 77.0 % (the authors' tables).
"""

from _videomaev2 import method
from ml_collections import ConfigDict

CLIPPED = {"videomaev2_g_k710": 5.0}


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg`: size and data, and where its weights come from K710's labels a third word."""
    size, data, *after = (arg or "g,k710").split(",")
    name = "_".join(["videomaev2", size, data, *after])
    sparse, large = data == "ssv2", size in "hg"
    return ConfigDict(
        dict(
            method=method(size),
            data=dict(source="video", workers=16, repeats=2),
            # Random-resized crops; SSv2's directions have a meaning, so that its clips are not mirrored.
            augment=dict(
                video_stride=2 if data == "hmdb51" else 4, video_sampling="sparse" if sparse else "dense",
                video_crop="resized", video_flip=not sparse, video_test_clips=2 if sparse else 5, video_test_crops=3,
            ),
            optim=dict(clip=CLIPPED.get(name)),
            transfer=dict(task="finetune", recipe=name),
            train=dict(precision="bfloat16"),
            mesh=dict(scan=large, remat="full" if large else "none"),
            eval=dict(batch=256),
        )
    )  # fmt: skip
