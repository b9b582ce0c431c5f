r"""Audio-MAE, ViT-B/16, fine-tuned on ESC-50: the defaults of the authors' script, 50 epochs; data.fold is held out.

Run:      mae_jax finetune --config configs/birdmae/finetune_audiomae_b16_esc50.py --workdir runs/audiomae_b \
              --out runs/audiomae_b_esc50 --config.data.path=/data/ESC-50-master --config.data.fold=1
Hardware: one GPU.
Expect:   the paper averages the five folds; its number is not in the authors' repository. Positions are
          made anew for 5 s.
"""

from _audioset import finetuning
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return finetuning(
        "b", "esc50", epochs=50, warmup=5, batch=64, learning_rate=1e-3, weight_decay=0.05, smoothing=0.1,
        augment=dict(spectrogram_frequency_mask=(96, 1.0), spectrogram_time_mask=(24, 1.0)),
    )  # fmt: skip
