"""The 1797 digits as feature sets, split as `mae_jax.data.sources.digits` splits them."""

import functools

import numpy as np
from sklearn.datasets import load_digits

from mae_jax.data.sources.digits import stratified_test
from mae_jax.eval.features import Labelled


@functools.cache
def pixels() -> tuple[Labelled, Labelled]:
    """(train, test) with 64 normalised pixels as features."""
    x, y = load_digits(return_X_y=True)
    x, y = ((x / 16 - 0.305) / 0.376).astype(np.float32), y.astype(np.int64)
    test = stratified_test(y, test=360)
    return Labelled(x[~test], y[~test]), Labelled(x[test], y[test])
