"""MAE ViT-L/16 with UperNet on ADE20K (MAE, Table 5).

Run:      mae_jax segment --config configs/mae/segment_l16_ade20k.py --weights mae_pretrain_vit_large.pth \\
              --out runs/segment_l16 --config.data.path=/data/ADEChallengeData2016
Hardware: 8 GPUs with 40 GB or more (2 crops of 512 x 512 each); --config.mesh.remat=full for less.
Expect:   published mIoU 53.6. Not run here: no such machine.
"""

from _ade20k import ade20k
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; docs/segmentation.md says what is recalled and what differs from the published recipe."""
    return ade20k(
        dict(dim=1024, depth=24, heads=16), segment_layer_decay=0.75, segment_drop_path=0.2,
        segment_blocks=(7, 11, 15, 23),
    )  # fmt: skip
