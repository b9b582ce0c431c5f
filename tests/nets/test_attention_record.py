"""Attention weights recorded from any method's `encode`."""

import jax
import numpy as np
import pytest
from tiny_methods import make

from mae_jax.nets import attention

BLOCKS = {"mae": 2, "cae": 2, "lut": 2, "hiendmae": 3, "maskalign": 3}  # tests/tiny_methods.py


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_gives_its_weights_and_they_sum_to_one(name):
    method, params, rest, batch = make(name)

    @jax.jit
    def maps(params, batch):
        with attention.record() as found:
            method.encode(params, rest, batch)
        return found

    found = maps(params, batch)
    assert len(found) == BLOCKS[name]
    for weights in found:
        assert weights.ndim == 4 and weights.shape[2] == weights.shape[3]
        np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)


def test_nothing_is_recorded_outside():
    method, params, rest, batch = make("mae")
    with attention.record() as found:
        pass
    method.encode(params, rest, batch)
    assert found == []
