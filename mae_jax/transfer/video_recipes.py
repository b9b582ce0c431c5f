"""Published fine-tuning recipes of video methods (transfer/recipes.py says what a recipe is).

The authors count videos where we count samples: with `data.repeats` views of each video a batch is as many times
larger, an epoch of theirs as many of ours, and a rate per 256 so much smaller. `of` does the sums; a config that names
one of these recipes sets data.repeats too (configs/videomae, configs/videomaev2).
"""

from typing import Any


def of(
    videos: int,
    repeats: int,
    epochs: int,
    rate: float,
    layer_decay: float,
    *,
    drop_path: float = 0.1,
    dropout: float = 0.0,
    warmup: int = 5,
    end: float = 1e-6,
    weight_decay: float = 0.05,
) -> dict[str, Any]:
    """A recipe from the authors' arguments.

    Args:
      videos: in a batch. Where the sheets of facts give none it is 512, and the rate scales with it.
      repeats: views of each (num_sample).
      rate, end: first and last rate per 256 videos.
    """
    return dict(
        pool="mean", head_std=2e-5, dropout=dropout, warmup=warmup * repeats, batch=videos * repeats, optimizer="adamw",
        epochs=epochs * repeats, learning_rate=rate / repeats, end_rate=end * videos / 256, weight_decay=weight_decay,
        layer_decay=layer_decay, drop_path=drop_path, smoothing=0.1, mixup=0.8, cutmix=1.0, erase=0.25,
        randaugment="rand-m7-n4-mstd0.5-inc1", crop_scale=(0.08, 1.0), average=0.0,
    )  # fmt: skip


_SMALL: dict[str, Any] = dict(drop_path=0.2, dropout=0.5, end=1e-5)  # UCF101, and ViT-H
VIDEO_RECIPES: dict[str, dict[str, Any]] = {
    # MCG-NJU/VideoMAE, FINETUNE.md and its scripts. ViT-B after 800 epochs, "long" after 1600 (SSv2: 2400).
    "videomae_s_k400": of(512, 2, 150, 5e-4, 0.75),
    "videomae_b_k400": of(512, 1, 100, 1e-3, 0.75),
    "videomae_b_k400_long": of(512, 2, 75, 5e-4, 0.75),
    "videomae_l_k400": of(512, 2, 35, 2e-3, 0.75),
    "videomae_h_k400": of(512, 2, 50, 1e-3, 0.75, **_SMALL),
    "videomae_s_ssv2": of(512, 2, 40, 1e-3, 0.7),
    "videomae_b_ssv2": of(512, 1, 50, 5e-4, 0.75),
    "videomae_b_ssv2_long": of(512, 2, 30, 5e-4, 0.75),
    "videomae_b_ucf101": of(512, 2, 100, 5e-4, 0.7, **_SMALL),
    # OpenGVLab/VideoMAEv2: after pretraining on labels of K710 (post-pretraining) ...
    "videomaev2_b_k710": of(512, 2, 90, 7e-4, 0.75),
    "videomaev2_h_k710": of(512, 2, 40, 1e-3, 0.8, drop_path=0.2, dropout=0.5),
    "videomaev2_g_k710": of(96, 2, 35, 1e-3, 0.9, drop_path=0.3, weight_decay=0.1),
    # ... from there ...
    "videomaev2_g_k400_k710": of(96, 2, 3, 1e-5, 0.9, drop_path=0.25, weight_decay=0.1, warmup=1),
    "videomaev2_g_ucf101_k710": of(96, 2, 50, 1e-3, 0.9, drop_path=0.35, dropout=0.5),
    "videomaev2_g_hmdb51_k710": of(96, 2, 15, 5e-4, 0.9, drop_path=0.35, dropout=0.5),
    # ... and directly.
    "videomaev2_b_k400": of(512, 2, 90, 7e-4, 0.75),
    "videomaev2_b_ssv2": of(512, 2, 25, 2e-3, 0.65),
    "videomaev2_l_k400": of(512, 2, 35, 2e-3, 0.75, drop_path=0.2),
    "videomaev2_h_ssv2": of(512, 2, 20, 5e-4, 0.8),
    "videomaev2_g_k400": of(96, 2, 30, 1e-3, 0.9, drop_path=0.2, weight_decay=0.1),
    "videomaev2_g_ssv2": of(96, 2, 20, 3e-4, 0.9, drop_path=0.25),
}
