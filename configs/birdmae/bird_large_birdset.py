r"""Bird-MAE, large: BirdSet's XCL, 5 s at 32 kHz, the authors' pretraining, 150 epochs (":30" for 30).

Run:      mae_jax train --config configs/birdmae/bird_large_birdset.py --workdir runs/bird_large \
              --config.data.path=/data/xcl
Hardware: the authors used 4 GPUs of 256 clips and published no hours.
Expect:   a frozen encoder with prototypes about 3.3 points of MAP below fine-tuning, up to 37 above a linear probe
          (abstract; over all sizes).
"""

from _birdset import pretraining
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is the number of epochs."""
    return pretraining("large", arg, batch=1024)
