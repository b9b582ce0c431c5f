r"""Point-MAE's segmentation of ShapeNetPart, 2048 points, 50 parts: the published recipe, 300 epochs of batches of 16.

Run:      mae_jax segment --config configs/pointmae/segment_shapenetpart.py --workdir runs/pointmae_shapenet55 \
              --out runs/pointmae_parts --config.data.path=/data/shapenetcore_partanno_segmentation_benchmark_v0_normal
Hardware: the authors used one GPU and published no hours.
Expect:   instance mIoU 86.1 %, class mIoU 84.2 % (authors' table and later ones; they stepped twice per batch).
"""

from _pointmae_shapes import DECAY
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=dict(name="pointmae", points=2048, groups=128),
            data=dict(source="points", layout="shapenetpart", workers=8),
            augment=dict(points_sample="random", points_test_sample="first"),
            optim=dict(decay_rules=DECAY),
            transfer=dict(task="segment", segment_rate=2e-4, segment_batch=16),
        )
    )  # fmt: skip
