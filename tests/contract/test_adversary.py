"""A toy for the contract: a generator and a critic in one scalar loss, each clipped by itself."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mae_jax.core.keys import Context
from mae_jax.core.types import Aux
from mae_jax.methods.base import Leaf, Method
from mae_jax.schema import Optim
from mae_jax.train.optimizers import make_optimizer
from mae_jax.train.state import init_state
from mae_jax.train.step import make_step


@jax.custom_vjp
def reverse(x):
    """The identity, whose gradient has the other sign (Ganin and Lempitsky, 2015)."""
    return x


reverse.defvjp(lambda x: (x, None), lambda _, g: (-g,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversary(Method):
    """A Wasserstein GAN of two linear maps: max over critics, min over generators of E c(x) - E c(g(z)).

    Attributes:
      how: "stop": each player's own loss, the other's parameters stopped; "reverse": one value, gradient reversed.
      decay: of the critic's weights (its Lipschitz bound).
    """

    name: ClassVar[str] = "adversary"
    how: str = "stop"
    decay: float = 0.5

    @property
    def batch_spec(self):
        return {"x": Leaf((2,))}

    def init(self, key, batch):
        linear = lambda n: {"kernel": 0.1 * jax.random.normal(jax.random.fold_in(key, n), (2, n)), "bias": jnp.zeros(n)}
        return {"generator": linear(2), "critic": linear(1)}, {}

    def loss(self, params, rest, batch, ctx):
        real, z = batch["x"], ctx.normal("z", batch["x"].shape)
        linear = lambda p, x: x @ p["kernel"] + p["bias"][None]
        value = lambda critic, fake: (linear(critic, real) - linear(critic, fake)).mean()
        generator, critic = params["generator"], params["critic"]
        fake, stop = linear(generator, z), jax.lax.stop_gradient
        if self.how == "reverse":
            loss = -value(critic, reverse(fake))
        else:
            loss = value(stop(critic), fake) - value(critic, stop(fake))
        loss = loss + self.decay * jnp.square(critic["kernel"]).sum()
        return loss, Aux(stats={}, metrics={"distance": jnp.abs(real.mean(0) - fake.mean(0)).max()})


X = jnp.asarray(np.random.default_rng(0).normal(size=(64, 2)) + [2.0, -1.0], jnp.float32)
OPTIM = Optim(
    name="sgd", momentum=0.0, weight_decay=0.0, clip_groups=(("^generator/", 0.5), ("^critic/", 0.01)),
)  # fmt: skip


def train(method, optim, steps, rate):
    """[(state, metrics)] of each step, the fresh state first."""
    params = jax.eval_shape(lambda: method.init(jax.random.key(0), {"x": X})[0])
    optimizer = make_optimizer(optim, params)
    step = jax.jit(make_step(method, optimizer, lambda step: rate, lambda batch, ctx: batch, seed=0), static_argnums=3)
    history = [(init_state(method, optimizer, jax.random.key(0), {"x": X}), {})]
    for _ in range(steps):
        history.append(step(history[-1][0], {}, {"x": X}))
    return history


@pytest.mark.parametrize("how", ["stop", "reverse"])
def test_each_player_gets_the_gradient_of_its_own_loss(how):
    """By hand, for linear players: the critic's gradient is a difference of means, the generator's is the critic."""
    method, z = Adversary(how=how, decay=0.0), jax.random.normal(jax.random.key(1), X.shape)
    params, _ = method.init(jax.random.key(0), {"x": X})
    context = Context(jax.random.key(0), given={"z": z})
    gradient = jax.grad(lambda p: method.loss(p, {}, {"x": X}, context)[0])(params)
    fake = z @ params["generator"]["kernel"] + params["generator"]["bias"][None]
    ascent = np.asarray(X).mean(0) - fake.mean(0)  # the critic climbs the value, the generator descends it
    np.testing.assert_allclose(gradient["critic"]["kernel"][:, 0], -ascent, rtol=1e-4)
    np.testing.assert_allclose(gradient["generator"]["bias"], -params["critic"]["kernel"][:, 0], rtol=1e-4)


def test_groups_are_clipped_each_to_its_own_norm():
    (before, _), (after, _) = train(Adversary(), OPTIM, steps=1, rate=1.0)
    moved = jax.tree.map(jnp.subtract, before["params"], after["params"])
    raw = train(Adversary(), dataclasses.replace(OPTIM, clip_groups=()), steps=1, rate=1.0)[1][0]
    whole = jax.tree.map(jnp.subtract, before["params"], raw["params"])
    assert optax.tree.norm(whole["critic"]) > 1.0
    np.testing.assert_allclose(optax.tree.norm(moved["critic"]), 0.01, rtol=1e-3)
    assert 0.01 < optax.tree.norm(whole["generator"]) < 0.5
    np.testing.assert_allclose(moved["generator"]["bias"], whole["generator"]["bias"], atol=1e-6)  # not clipped


def test_the_generator_finds_the_data():
    history = train(Adversary(), dataclasses.replace(OPTIM, clip_groups=((".", 1.0),)), steps=60, rate=0.2)
    distances = [float(metrics["distance"]) for _, metrics in history[1:]]
    assert distances[0] > 1.5 and max(distances[-5:]) < 0.5
