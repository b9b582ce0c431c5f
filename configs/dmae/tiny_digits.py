"""DMAE on scikit-learn's handwritten digits (8 x 8, embedded, no download), taught by a run of tiny_digits_teacher.py.

Run:      mae_jax train --config configs/dmae/tiny_digits_teacher.py --workdir runs/dmae_teacher
          mae_jax train --config configs/dmae/tiny_digits.py --workdir runs/dmae_digits
          (without a teacher: --config.method.pairs='()')
Hardware: 2 CPU cores, about half a minute besides the teacher's minute.
Expect:   linear probe 2 points above the same student without a teacher, mean of 3 seeds; the alignment falls to
          about half of its start (docs/methods/dmae.md has the runs).
"""

from _dmae_digits import digits
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return digits(
        15, name="dmae", dim=32, depth=2, heads=4, decoder_dim=32, decoder_depth=2, decoder_heads=4,
        pairs=((1, 2),), head="linear", distance="l1", teacher_file="runs/dmae_teacher", teacher_dim=64,
        teacher_depth=4, teacher_heads=4,
    )  # fmt: skip
