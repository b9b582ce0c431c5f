"""VideoMAE's pretraining recipes (MCG-NJU/VideoMAE, scripts/pretrain), shared by the model sizes."""

from ml_collections import ConfigDict

# Clips to train on, frames between two of a clip, epochs, batch of ViT-B, rate per 256, share of hidden places.
DATA = {
    "k400": (240_000, 4, 800, 2048, 1.5e-4, 0.9),  # Kinetics-400; the best results are after 1600 epochs
    "ssv2": (169_000, 2, 800, 2048, 1.5e-4, 0.9),  # Something-Something V2; 2400
    "ucf101": (9_500, 4, 3200, 192, 3e-4, 0.75),
}
MODELS = {
    "s": dict(dim=384, depth=12, heads=6, decoder_dim=192, decoder_depth=4, decoder_heads=3),
    "b": dict(dim=768, depth=12, heads=12, decoder_dim=384, decoder_depth=4, decoder_heads=6),
    "l": dict(dim=1024, depth=24, heads=16, decoder_dim=512, decoder_depth=12, decoder_heads=8),
    "h": dict(dim=1280, depth=32, heads=16, decoder_dim=640, decoder_depth=12, decoder_heads=8),
}
BATCH = {("s", "k400"): 1024, ("l", "k400"): 512, ("l", "ssv2"): 512, ("h", "k400"): 1024, ("h", "ssv2"): 1024}


def method(size: str, ratio: float = 0.9) -> dict:
    """The model at 16 frames of 224 px."""
    return dict(name="videomae", frames=16, image_size=224, tubelet=2, patch=16, mask_ratio=ratio, **MODELS[size])


def recipe(size: str, arg: str) -> ConfigDict:
    """The whole config; `arg`: "k400" (default), "ssv2" or "ucf101", and after a comma the epochs."""
    data, _, epochs = arg.partition(",")
    data = data or "k400"
    if data not in DATA:
        raise ValueError(f"the recipe is for {', '.join(DATA)}, not '{data}'")
    clips, stride, default, batch, rate, ratio = DATA[data]
    batch = BATCH.get((size, data), batch)
    epoch, epochs = clips // batch, int(epochs or default)
    return ConfigDict(
        dict(
            method=method(size, ratio),
            # A directory of videos, or data.manifest: a list of "path label" lines (docs/video.md); no label is read.
            data=dict(source="video", workers=16),
            # One multi-scale crop for all frames of a clip, no flip, no colours.
            augment=dict(video_stride=stride, video_crop="multi_scale", interpolation="bilinear"),
            # warm-up and cosine as two lists of steps (linspace); the last rate scales with the batch too
            optim=dict(
                name="adamw", learning_rate=rate, scaling="linear", schedule="cosine_linspace", warmup=40 * epoch,
                end_share=1e-5 / rate, b1=0.9, b2=0.95, weight_decay=0.05,
                decay_rules=(
                    (r"(^|/)(bias|q_bias|v_bias|scale|gamma|mask_token|pos_embed)$", 0.0), (r"(^|/)kernel$", 1.0),
                ),
            ),
            train=dict(steps=epochs * epoch, batch=batch, precision="bfloat16"),
            checkpoint=dict(every=20 * epoch, keep=2),
            log=dict(every=20, pictures_every=20 * epoch),
        )
    )  # fmt: skip
