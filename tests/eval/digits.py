"""The 1797 digits as feature sets, split as `mae_jax.data.sources.digits` splits them."""

import functools

import numpy as np

from mae_jax.data.sources import make_source
from mae_jax.eval.features import Labelled


@functools.cache
def pixels() -> tuple[Labelled, Labelled]:
    """(train, test) with 64 normalised pixels as features."""
    train, test = (_labelled(make_source("digits", split, {})) for split in ("train", "test"))
    return train, test


def _labelled(source) -> Labelled:
    x = np.stack([source.image(i).reshape(-1) for i in range(len(source))]) / 255
    return Labelled(((x - 0.305) / 0.376).astype(np.float32), source.labels.astype(np.int64))
