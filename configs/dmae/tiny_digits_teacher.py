"""The teacher of tiny_digits.py: plain MAE on scikit-learn's handwritten digits (8 x 8, embedded, no download).

Run:      mae_jax train --config configs/dmae/tiny_digits_teacher.py --workdir runs/dmae_teacher
Hardware: 2 CPU cores, about a minute.
Expect:   linear probe above 93 % (docs/methods/dmae.md has the runs).
"""

from _dmae_digits import digits
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return digits(
        60, name="mae", dim=64, depth=4, heads=4, decoder_dim=32, decoder_depth=2, decoder_heads=4
    )  # fmt: skip
