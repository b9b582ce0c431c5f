"""What MAE's two segmentation recipes share. The leading underscore keeps it off the list of configs."""

from typing import Any

from ml_collections import ConfigDict


def ade20k(model: dict[str, Any], **transfer: Any) -> ConfigDict:
    """The config of an encoder; the weights' own method counts before `model`, which --scratch takes."""
    return ConfigDict(
        dict(
            method=dict(name="mae", image_size=224, patch=16, norm_pix=True, **model),
            data=dict(
                source="segmentation", path="/path/to/ADEChallengeData2016", classes="objectInfo150.txt",
                reduce_zero_label=True, workers=8,
            ),
            augment=dict(interpolation="bilinear"),
            transfer=dict(
                segment_head="upernet", segment_size=512, segment_short=512, segment_scale=(0.5, 2.0),
                segment_max_ratio=0.75, segment_photometric=True, segment_inference="slide", segment_stride=341,
                segment_steps=160_000, segment_batch=16, segment_rate=1e-4, segment_weight_decay=0.05, **transfer,
            ),
            train=dict(precision="bfloat16"),
            checkpoint=dict(every=8000),
            eval=dict(every=16_000),
        )
    )  # fmt: skip
