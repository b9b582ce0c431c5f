"""A toy for the contract: a sparse autoencoder whose optimizer keeps the dictionary's rows on the unit sphere."""

import dataclasses
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mae_jax.core import tree
from mae_jax.core.types import Aux
from mae_jax.methods.base import Leaf, Method
from mae_jax.schema import Optim
from mae_jax.train.optimizers import OPTIMIZERS, make_optimizer
from mae_jax.train.state import init_state
from mae_jax.train.step import make_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseAutoencoder(Method):
    """x ~ relu(x E + b) D with an L1 penalty on the code; the rows of D have unit length (Bricken et al., 2023).

    Attributes:
      features: rows of the dictionary.
      penalty: weight of the L1 norm.
    """

    name: ClassVar[str] = "sparse_autoencoder"
    dim: int = 6
    features: int = 12
    penalty: float = 0.01

    @property
    def batch_spec(self):
        return {"x": Leaf((self.dim,))}

    def init(self, key, batch):
        rows = unit(jax.random.normal(key, (self.features, self.dim)))
        return {"encoder": {"kernel": rows.T, "bias": jnp.zeros(self.features)}, "decoder": {"kernel": rows}}, {}

    def loss(self, params, rest, batch, ctx):
        code = jax.nn.relu(batch["x"] @ params["encoder"]["kernel"] + params["encoder"]["bias"][None])
        error = jnp.square(code @ params["decoder"]["kernel"] - batch["x"]).sum(axis=1).mean()
        return error + self.penalty * code.sum(axis=1).mean(), Aux(stats={}, metrics={"error": error})


def unit(rows):
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def without_radial(pattern):
    """Remove from each row's gradient what lies along the row, which only changes its length."""

    def one(path, g, p):
        return g - (g * unit(p)).sum(axis=1, keepdims=True) * unit(p) if re.search(pattern, path) else g

    return optax.stateless(lambda updates, params: tree.map_with_path(one, updates, params))


def unit_rows(pattern):
    """The direction that ends on the sphere: p - rate d has rows of length 1."""

    def update(updates, state, params=None, *, rate, **_):
        def one(path, d, p):
            safe = jnp.maximum(rate, 1e-12)  # at rate 0, where a warm-up starts, nothing moves whatever d is
            return (p - unit(p - rate * d)) / safe if re.search(pattern, path) else d

        return tree.map_with_path(one, updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@pytest.fixture
def optimizers(monkeypatch):
    def adam_on_the_sphere(c, multipliers, decay):
        rows = r"^decoder/kernel$"
        return optax.chain(without_radial(rows), optax.scale_by_adam(c.b1, c.b2, c.eps), unit_rows(rows))

    monkeypatch.setitem(OPTIMIZERS, "adam_on_the_sphere", adam_on_the_sphere)


X = jnp.asarray(np.random.default_rng(0).exponential(size=(64, 3)) @ np.random.default_rng(1).normal(size=(3, 6)))
X = X.astype(jnp.float32)


def train(name, steps=60):
    """(the last state, [metrics and the dictionary's largest distance from unit length after each step])."""
    method = SparseAutoencoder()
    params = jax.eval_shape(lambda: method.init(jax.random.key(0), {"x": X})[0])
    optimizer = make_optimizer(Optim(name=name, weight_decay=0.0), params)
    rate = lambda step: 0.03 * jnp.minimum(step / 5, 1.0)  # the first step's is 0
    step = jax.jit(make_step(method, optimizer, rate, lambda batch, ctx: batch, seed=0), static_argnums=3)
    state, history = init_state(method, optimizer, jax.random.key(0), {"x": X}), []
    for _ in range(steps):
        state, metrics = step(state, {}, {"x": X})
        lengths = jnp.linalg.norm(state["params"]["decoder"]["kernel"], axis=1)
        history.append(jax.device_get(metrics | {"off": jnp.abs(lengths - 1).max()}))
    return state, history


def test_rows_stay_on_the_sphere_and_the_loss_falls(optimizers):
    state, history = train("adam_on_the_sphere")
    assert max(h["off"] for h in history) < 1e-6
    assert history[-1]["loss"] < 0.3 * history[0]["loss"] and history[0]["loss"] == history[1]["loss"]
    assert int(state["guard"]["skipped"]) == 0


def test_plain_adam_leaves_it(optimizers):
    assert train("adam", steps=10)[1][-1]["off"] > 0.01


def test_what_lies_along_a_row_is_removed():
    params = {"decoder": {"kernel": 3.0 * jnp.eye(2, 3)}, "encoder": {"kernel": jnp.ones((3, 2))}}
    transform = without_radial("^decoder/")
    gradient, _ = transform.update(jax.tree.map(jnp.ones_like, params), transform.init(params), params)
    np.testing.assert_allclose(gradient["decoder"]["kernel"], [[0, 1, 1], [1, 0, 1]])
    np.testing.assert_array_equal(gradient["encoder"]["kernel"], 1.0)
