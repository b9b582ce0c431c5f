r"""Audio-MAE, ViT-B/16, fine-tuned on AudioSet-2M (several labels for a clip): the authors' recipe, 100 epochs.

Run:      mae_jax finetune --config configs/birdmae/finetune_audiomae_b16_as2m.py --workdir runs/audiomae_b \
              --out runs/audiomae_b_as2m --config.data.path=/data/audioset --config.data.table='{split}.json' \
              --config.data.vocabulary=class_labels_indices.csv
Hardware: the authors used 64 GPUs of 4 clips, 5 h 16 min (their log).
Expect:   mAP 47.3 (the authors' log). An epoch of theirs is 200 000 clips drawn by the rareness of their labels, hence
          100 epochs of 781 steps; ours draws all clips alike, and theirs mixes waveforms besides.
"""

from _audioset import finetuning
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return finetuning(
        "b", "audioset", drop=0.2, steps=100 * 781, warmup=0.1, batch=256, learning_rate=2e-4, weight_decay=5e-4,
        smoothing=0.0,
        augment=dict(
            spectrogram_shift="published", spectrogram_gain=10.0, spectrogram_frequency_mask=(192, 1.0),
            spectrogram_time_mask=(48, 1.0),
        ),
    )  # fmt: skip
