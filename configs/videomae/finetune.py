r"""VideoMAE fine-tuned on labels: ViT-B on Kinetics-400, the published recipe.

":SIZE,DATA" is another: s, b, l, h on k400; s, b on ssv2; b on ucf101; ":b,k400,long" after the longer pretraining.

Run:      mae_jax finetune --config configs/videomae/finetune.py --workdir runs/videomae_b16 \
              --out runs/videomae_b16_k400 --config.data.path=/data/k400
Hardware: 512 videos a batch on 64 GPUs. On fewer chips raise train.microbatches, or --config.mesh.remat=dots.
Expect:   K400 (5 x 3 views): S 79.0, B 80.0 (long 81.5), L 85.2, H 86.6 %; SSv2 (2 x 3): S 66.8, B 69.6 (long
          70.8) %; UCF101: B 91.3 % (the authors' tables).
"""

from _videomae import DATA, method
from ml_collections import ConfigDict

# Views of each video in a batch (num_sample), which the recipe's sums know (transfer/video_recipes.py).
ONCE = ("videomae_b_k400", "videomae_b_ssv2")


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg`: size and data, with ",long" for the recipe after the longer pretraining."""
    size, data, *long = (arg or "b,k400").split(",")
    name = "_".join(["videomae", size, data, *long])
    sparse = data == "ssv2"
    return ConfigDict(
        dict(
            method=method(size, DATA[data][-1]),
            data=dict(source="video", workers=16, repeats=1 if name in ONCE else 2),
            # Random-resized crops; SSv2's directions have a meaning, so that its clips are not mirrored.
            augment=dict(
                video_stride=4, video_sampling="sparse" if sparse else "dense", video_crop="resized",
                video_flip=not sparse, video_test_clips=2 if sparse else 5, video_test_crops=3,
            ),
            transfer=dict(task="finetune", recipe=name),
            train=dict(precision="bfloat16"),
            eval=dict(batch=256),
        )
    )  # fmt: skip
