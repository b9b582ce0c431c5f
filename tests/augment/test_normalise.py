"""Device-side normalisation."""

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.augment.normalise import normalise


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_scale_then_standardise(dtype, top):
    image = (np.array([[[[0, 1, 0.5]]]]) * top).astype(dtype)
    found = normalise(jnp.asarray(image), (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    np.testing.assert_allclose(found, [[[[-1, 3, 0.25]]]], atol=2 / min(top, 255))
    assert found.dtype == np.float32
