r"""Audio-MAE, ViT-L/16 on AudioSet-2M: the authors' pretraining, 33 epochs (":10" for 10).

Run:      mae_jax train --config configs/birdmae/audiomae_l16_audioset.py --workdir runs/audiomae_l \
              --config.data.path=/data/audioset --config.data.table='{split}.json' \
              --config.data.vocabulary=class_labels_indices.csv
Hardware: the authors used 64 V100 of 32 GB, 8 clips each, and published no hours.
Expect:   the authors released no weights and no number of this size.
"""

from _audioset import pretraining
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return pretraining("l", arg)
