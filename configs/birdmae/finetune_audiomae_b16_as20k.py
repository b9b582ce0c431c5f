r"""Audio-MAE, ViT-B/16, fine-tuned on AudioSet-20K (several labels for a clip): the authors' recipe, 60 epochs.

Run:      mae_jax finetune --config configs/birdmae/finetune_audiomae_b16_as20k.py --workdir runs/audiomae_b \
              --out runs/audiomae_b_as20k --config.data.path=/data/audioset --config.data.table=20k_{split}.json \
              --config.data.vocabulary=class_labels_indices.csv
Hardware: the authors used 4 GPUs of 8 clips.
Expect:   mAP 37.0 (the authors' log). Theirs mixes waveforms of half of the samples besides, with their labels.
"""

from _audioset import finetuning
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config. 192 lines of frequency exceed the 128 there are; it looks exchanged with the 48 of time."""
    return finetuning(
        "b", "audioset", drop=0.2, epochs=60, warmup=4, batch=32, learning_rate=1e-3, weight_decay=5e-4, smoothing=0.0,
        augment=dict(
            spectrogram_shift="published", spectrogram_gain=10.0, spectrogram_frequency_mask=(192, 1.0),
            spectrogram_time_mask=(48, 1.0),
        ),
    )  # fmt: skip
