"""my_method: what every method must satisfy, and what this one claims."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mae_jax import methods
from mae_jax.core.keys import Context
from mae_jax.testing import conformance

MyMethod = methods.get(str(Path(__file__).resolve().parents[1] / "my_method.py"))
SMALL: dict[str, Any] = dict(
    image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1,
    decoder_heads=3,
)  # fmt: skip


@pytest.fixture(scope="session")
def case():
    """A small instance with weights and a random batch."""
    return conformance.case(MyMethod(**SMALL))


# CONFORMANCE
@pytest.mark.parametrize("check", conformance.CHECKS)
def test_conformance(case, check):
    try:
        conformance.run(check, case)
    except conformance.Skip as why:
        pytest.skip(str(why))


# END
def test_the_loss_is_the_mean_squared_error_of_hidden_patches(case):
    """The method's equation, written a second time from what `loss` has seen. Replace it by your paper's."""
    loss, aux = case.loss()
    hidden, error = aux.seen["hidden"], ((aux.seen["pred"] - aux.seen["target"]) ** 2).mean(-1)
    assert jnp.allclose(loss, error[hidden].mean(), rtol=1e-5)


def test_the_share_of_hidden_patches(case):
    method = case.method
    mask = method.mask(Context(jax.random.key(0)), case.batch["image"])
    assert (mask.hidden.sum(axis=1) == 12).all()  # 16 patches, of which int(16 * 0.25) = 4 stay visible
