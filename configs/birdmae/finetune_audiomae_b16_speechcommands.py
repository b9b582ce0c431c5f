r"""Audio-MAE, ViT-B/16, fine-tuned on Speech Commands: the defaults of the authors' script at a batch of 256.

Run:      mae_jax finetune --config configs/birdmae/finetune_audiomae_b16_speechcommands.py --workdir runs/audiomae_b \
              --out runs/audiomae_b_commands --config.data.path=/data/speech_commands_v0.02
Hardware: one GPU.
Expect:   the authors' repository has neither a script nor a number for it. They train a sigmoid per word with mixed
          waveforms, and add noise and a shift of up to 10 frames; here it is a softmax without these.
"""

from _audioset import finetuning
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return finetuning(
        "b", "speechcommands", epochs=60, warmup=4, batch=256, learning_rate=2e-3, weight_decay=5e-4, smoothing=0.1,
        augment=dict(spectrogram_frequency_mask=(48, 1.0), spectrogram_time_mask=(48, 1.0)),
    )  # fmt: skip
