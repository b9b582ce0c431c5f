"""MAE ViT-B/16 with UperNet on ADE20K (MAE, Table 5), as in mmsegmentation's configuration.

Run:      mae_jax segment --config configs/mae/segment_b16_ade20k.py --weights mae_pretrain_vit_base.pth \\
              --out runs/segment_b16 --config.data.path=/data/ADEChallengeData2016
Hardware: 8 GPUs with 24 GB or more (2 crops of 512 x 512 each).
Expect:   published mIoU 48.1. Not run here: no such machine.
"""

from _ade20k import ade20k
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; docs/segmentation.md says what is recalled and what differs from the published recipe."""
    return ade20k(
        dict(dim=768, depth=12, heads=12), segment_layer_decay=0.65, segment_drop_path=0.1, segment_blocks=(3, 5, 7, 11)
    )  # fmt: skip
