r"""Point-CMAE's segmentation of ShapeNetPart, 2048 points, 50 parts: the published recipe, 300 epochs of batches of 16.

Run:      mae_jax segment --config configs/pointcmae/segment_shapenetpart.py --workdir runs/pointcmae_shapenet55 \
              --out runs/pointcmae_parts --config.data.path=/data/shapenetcore_partanno_segmentation_benchmark_v0_normal
Hardware: one GPU; no hours published.
Expect:   instance mIoU 86.0 %, class mIoU 84.9 % (a later paper's table; they stepped twice per batch).
"""

from _pointcmae_shapes import DECAY
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(name="pointcmae", points=2048, groups=128),
            data=dict(source="points", layout="shapenetpart", workers=8),
            augment=dict(points_sample="random", points_test_sample="first"),
            optim=dict(decay_rules=DECAY),
            transfer=dict(task="segment", segment_rate=2e-4, segment_batch=16),
        )
    )  # fmt: skip
