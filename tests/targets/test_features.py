"""Feature targets against torch's functions."""

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.targets.features import NORMS

torch = pytest.importorskip("torch")
Y = np.random.default_rng(0).normal(3.0, 2.0, (2, 5, 7)).astype(np.float32)
THEIRS = {
    "whiten": lambda y: torch.nn.functional.layer_norm(y, (7,)),
    "l2": lambda y: torch.nn.functional.normalize(y, dim=-1),
    "bn": lambda y: (y - y.mean()) / (y.var() + 1e-6) ** 0.5,
    "none": lambda y: y,
}


@pytest.mark.parametrize("name", NORMS)
def test_normalisation_is_theirs(name):
    expected = THEIRS[name](torch.from_numpy(Y)).numpy()
    np.testing.assert_allclose(NORMS[name](jnp.asarray(Y)), expected, rtol=1e-5, atol=1e-6)


def test_a_token_of_zeros_stays_one():
    for norm in NORMS.values():
        assert (norm(jnp.zeros((1, 2, 3))) == 0).all()
