"""Distances against torch's functions."""

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.losses.regression import DISTANCES, smooth_l1

torch = pytest.importorskip("torch")
PRED, TARGET = np.random.default_rng(1).normal(0, 2, (2, 50)).astype(np.float32)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_smooth_l1_is_torchs(beta):
    theirs = torch.nn.functional.smooth_l1_loss(
        torch.from_numpy(PRED), torch.from_numpy(TARGET), beta=beta, reduction="none"
    )
    np.testing.assert_allclose(smooth_l1(jnp.asarray(PRED), jnp.asarray(TARGET), beta), theirs.numpy(), rtol=1e-5)


def test_maskalign_doubles_smooth_l1():
    """So that it is the squared distance near 0."""
    values = {name: float(d(jnp.array([0.1]), jnp.array([0.4]))[0]) for name, d in DISTANCES.items()}
    np.testing.assert_allclose([values["smoothl1"], values["l2"], values["l1"]], [0.09, 0.09, 0.3], rtol=1e-5)
