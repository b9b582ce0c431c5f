r"""ColorMAE, ViT-B/16 with UperNet on ADE20K: the authors' recipe, 160 k iterations of 16 images (that of MAE's ViT-B).

Run:      mae_jax segment --config configs/colormae/segment_b16_ade20k.py --workdir runs/colormae_vit_b16_imagenet \
              --out runs/segment_colormae_b16 --config.data.path=/data/ADEChallengeData2016
Hardware: 8 GPUs with 24 GB or more (2 crops of 512 x 512 each).
Expect:   mIoU 45.80 / 49.18 after 300 / 800 epochs under green noise (README). Not run here: no such machine.
"""

from _colormae_imagenet import recipe
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs of the pretraining."""
    return ConfigDict(
        dict(
            method=recipe(arg, dim=768, depth=12, heads=12).method,
            data=dict(
                source="segmentation", path="/path/to/ADEChallengeData2016", classes="objectInfo150.txt",
                reduce_zero_label=True, workers=8,
            ),
            augment=dict(interpolation="bilinear"),
            transfer=dict(
                segment_head="upernet", segment_size=512, segment_short=512, segment_scale=(0.5, 2.0),
                segment_max_ratio=0.75, segment_photometric=True, segment_inference="slide", segment_stride=341,
                segment_steps=160_000, segment_batch=16, segment_rate=1e-4, segment_weight_decay=0.05,
                segment_layer_decay=0.65, segment_drop_path=0.1, segment_blocks=(3, 5, 7, 11),
            ),
            train=dict(precision="bfloat16"),
            checkpoint=dict(every=8000),
            eval=dict(every=16_000),
        )
    )  # fmt: skip
