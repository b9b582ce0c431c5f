"""VideoMAE V2's pretraining recipes (OpenGVLab/VideoMAEv2, scripts/pretrain), shared by the model sizes."""

from ml_collections import ConfigDict

VIDEOS = 1_350_000  # UnlabeledHybrid: Kinetics-710, SSv2, AVA, WebVid2M and their own; not public as a whole
BATCH = 2048  # videos: 32 on each of 64 GPUs
VIEWS = 4  # of each, with crop and masks of their own (num_sample)
DECODER = dict(decoder_dim=512, decoder_depth=4, decoder_heads=8)
MODELS = {
    "s": dict(patch=16, dim=384, depth=12, heads=6, decoder_dim=192, decoder_depth=4, decoder_heads=3),
    "b": dict(patch=16, dim=768, depth=12, heads=12, decoder_dim=384, decoder_depth=4, decoder_heads=6),
    "l": dict(patch=16, dim=1024, depth=24, heads=16, **DECODER),
    "h": dict(patch=16, dim=1280, depth=32, heads=16, **DECODER),
    "g": dict(patch=14, dim=1408, depth=40, heads=16, mlp_ratio=48 / 11, **DECODER),
}
# Epochs of all videos, warm-up, rate per 256 videos, clip of the gradient's norm.
SCHEDULES = {
    "s": (200, 20, 1e-3, None), "b": (200, 20, 1e-3, None), "l": (300, 30, 1e-3, None), "h": (300, 30, 1e-3, None),
    "g": (300, 30, 6e-4, 0.02),
}  # fmt: skip


def method(size: str) -> dict:
    """The model at 16 frames of 224 px, encoder masked by tubes, decoder by running cells."""
    return dict(
        name="videomaev2", frames=16, image_size=224, tubelet=2, mask_ratio=0.9, decoder_ratio=0.5, **MODELS[size]
    )


def recipe(size: str, arg: str) -> ConfigDict:
    """The whole config; `arg` is the number of epochs, each of which sees every video in four views."""
    default, warmup, rate, clip = SCHEDULES[size]
    epoch, epochs = VIDEOS // BATCH, int(arg or default)  # 659 steps
    large = size in "hg"
    return ConfigDict(
        dict(
            method=method(size),
            # A directory of videos, or data.manifest: a list of "path label" lines (docs/video.md); no label is read.
            data=dict(source="video", workers=16, repeats=VIEWS),
            # SSv2's part of the mixture has stride 2 with the authors; one mixture of ours has one stride.
            augment=dict(video_stride=4, video_crop="multi_scale", interpolation="bilinear"),
            # Their rate knows the videos of a batch, ours its samples, four times as many.
            optim=dict(
                name="adamw", learning_rate=rate / VIEWS, scaling="linear", schedule="cosine_linspace",
                warmup=warmup * epoch, end_share=1e-5 / rate, b1=0.9, b2=0.95, weight_decay=0.05, clip=clip,
                decay_rules=(
                    (r"(^|/)(bias|q_bias|v_bias|scale|gamma|mask_token|pos_embed)$", 0.0), (r"(^|/)kernel$", 1.0),
                ),
            ),
            train=dict(steps=epochs * epoch, batch=BATCH * VIEWS, precision="bfloat16"),
            checkpoint=dict(every=5 * epoch, keep=2),
            mesh=dict(scan=large, remat="full" if large else "none"),
            log=dict(every=20, pictures_every=5 * epoch),
        )
    )  # fmt: skip
