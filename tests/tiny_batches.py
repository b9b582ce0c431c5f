"""What the tests of the input path share: small views, a few batches, and whether they are equal to the bit."""

import numpy as np

from mae_jax.data.pipeline import train_batches
from mae_jax.data.transforms import HostAugment
from mae_jax.data.views import View, Views


def images(*args, **kwargs):
    """Views of an image alone, with the arguments of `HostAugment`."""
    return Views({"image": View(HostAugment(*args, **kwargs))})


def take(count, *args, **kwargs):
    """The first `count` training batches."""
    with train_batches(*args, **kwargs) as batches:
        return [next(batches) for _ in range(count)]


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            assert type(x[key]) is type(y[key]) is np.ndarray
            assert x[key].dtype == y[key].dtype
            np.testing.assert_array_equal(x[key], y[key])
