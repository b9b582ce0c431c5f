"""A linear head on the frozen encoder of configs/mae/tiny_shapes.py: which texture has each pixel?

Run:      mae_jax segment --workdir runs/shapes --config configs/mae/tiny_segment.py --out runs/shapes_segment
Hardware: 2 CPU cores, less than two minutes.
Expect:   mIoU 21 %, against 19 to 20 % for the same encoder at random initialisation (--scratch): the pretraining is
          short (docs/segmentation.md).
"""

from ml_collections import ConfigDict
from tiny_shapes import get_config as pretraining


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        dict(
            method=pretraining().method.to_dict(),  # what --scratch takes
            data=dict(source="shapes", length=2048, test_split="test[:256]"),
            eval=dict(every=200),
            transfer=dict(
                segment_head="linear", segment_size=64, segment_scale=(1.0, 1.0), segment_max_ratio=1.0,
                segment_photometric=False, segment_steps=400, segment_batch=32, segment_rate=1e-2,
            ),
        )
    )  # fmt: skip
