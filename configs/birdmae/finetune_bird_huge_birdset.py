r"""Bird-MAE, huge, fine-tuned on a subset of BirdSet (several labels for 5 s): the authors' recipe, 30 epochs.

Run:      mae_jax finetune --config configs/birdmae/finetune_bird_huge_birdset.py --workdir runs/bird_huge \
              --out runs/bird_huge_hsn --config.data.path=/data/hsn --config.data.table='{split}.csv'
          the frozen encoder with prototypes: `mae_jax evaluate --workdir runs/bird_huge --protocol prototypes`
Hardware: one GPU.
Expect:   the paper's tables are per subset. Theirs also mixes waveforms with their labels, adds background and coloured
          noise and puts clips without a call in; here only the bands of frequency and time are hidden.
"""

from _birdset import finetuning
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return finetuning("huge")
